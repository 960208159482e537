{{/* Options of `ingress serve`, one a line. The addresses are the controller's defaults unless a port was changed.
Quoted, because a value may hold what means something else in YAML. */}}
{{- define "aioingress.args" -}}
{{- $ignored := (.Files.Get "files/ignored.yaml" | fromYaml).flags -}}
- serve
{{- with .Values.controller }}
{{- if ne (int .containerPort.http) 8080 }}
- "--http-address=0.0.0.0:{{ int .containerPort.http }}"
{{- end }}
{{- if ne (int .containerPort.https) 8443 }}
- "--https-address=0.0.0.0:{{ int .containerPort.https }}"
{{- end }}
{{- $metrics := include "aioingress.metricsPort" $ }}
{{- if ne $metrics "10254" }}
- "--admin-address=0.0.0.0:{{ $metrics }}"
{{- end }}
- "--workers={{ include "aioingress.scalar" .workers }}"
- "--log-format={{ .logFormat }}"
- "--log-level={{ .logLevel }}"
{{- if not .accessLog }}
- --no-access-log
{{- end }}
- "--controller-class={{ .ingressClassResource.controllerValue }}"
{{- if .ingressClass }}
- "--ingress-class={{ .ingressClass }}"
{{- end }}
{{- if or .ingressClassByName (and $.Values.rbac.create $.Values.rbac.scope) }}
- --ingress-class-by-name=true
{{- end }}
{{- if .watchIngressWithoutClass }}
- --watch-ingress-without-class=true
{{- end }}
{{- if .takeOverNginx.enabled }}
- --take-over-nginx=true
{{- end }}
{{- if .scope.enabled }}
- "--watch-namespace={{ default "$(POD_NAMESPACE)" .scope.namespace }}"
{{- else if .scope.namespaceSelector }}
- "--watch-namespace-selector={{ .scope.namespaceSelector }}"
{{- end }}
- "--configmap={{ default "$(POD_NAMESPACE)" .configMapNamespace }}/{{ include "aioingress.controller" $ }}"
{{- if or $.Values.tcp .tcp.configMapNamespace }}
- "--tcp-services-configmap={{ default "$(POD_NAMESPACE)" .tcp.configMapNamespace }}/{{ include "aioingress.fullname" $ }}-tcp"
{{- end }}
{{- if $.Values.defaultBackend.enabled }}
- "--default-backend-service=$(POD_NAMESPACE)/{{ include "aioingress.backend" $ }}"
{{- end }}
{{- if .defaultSSLCertificate }}
- "--default-ssl-certificate={{ .defaultSSLCertificate }}"
{{- end }}
{{- if .publishStatusAddress }}
- "--publish-status-address={{ .publishStatusAddress }}"
{{- else if include "aioingress.publishesService" $ }}
- "--publish-service={{ include "aioingress.publishedService" $ }}"
{{- else if .reportNodeInternalIp }}
- --report-node-internal-ip-address=true
{{- end }}
{{- if not .events }}
- --events=false
{{- end }}
{{- if not .updateStatus }}
- --update-status=false
{{- end }}
{{- if not .updateStatusOnShutdown }}
- --update-status-on-shutdown=false
{{- end }}
{{- if .disableLeaderElection }}
- --disable-leader-election=true
{{- else }}
- "--election-id={{ include "aioingress.electionID" $ }}"
{{- if .electionTTL }}
- "--election-ttl={{ include "aioingress.scalar" .electionTTL | trimSuffix "s" }}"
{{- end }}
{{- end }}
- "--shutdown-grace-period={{ include "aioingress.scalar" .shutdownGracePeriodSeconds }}"
- "--drain-timeout={{ include "aioingress.scalar" .drainTimeoutSeconds }}"
{{- range $name, $value := .extraArgs }}
{{- if not (hasKey $ignored $name) }}
{{- if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "--%s=%s" $name (include "aioingress.scalar" .) | quote }}
{{- end }}
{{- else if or (kindIs "invalid" $value) (and (kindIs "string" $value) (eq $value "")) }}
- --{{ $name }}
{{- else }}
- {{ printf "--%s=%s" $name (include "aioingress.scalar" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
