{{/* "true" if there is a value other than false, zero or empty at a dotted path. Argument: dict "path" PATH "values" .Values. */}}
{{- define "aioingress.isSet" -}}
{{- $value := .values -}}
{{- range splitList "." .path -}}
{{- $value = ternary (get (ternary $value dict (kindIs "map" $value)) .) nil (kindIs "map" $value) -}}
{{- end -}}
{{- if $value -}}true{{- end -}}
{{- end -}}

{{/* What deserves a second look, one a line. */}}
{{- define "aioingress.warnings" -}}
{{- $lines := list -}}
{{- range $path, $reason := (.Files.Get "files/ignored.yaml" | fromYaml).later -}}
{{- if include "aioingress.isSet" (dict "path" $path "values" $.Values) -}}
{{- $lines = append $lines (printf "%s: %s" $path $reason) -}}
{{- end -}}
{{- end -}}
{{- with .Values.controller -}}
{{- $told := or (eq (dig "use-forwarded-headers" "" (default dict .config) | toString) "true") (eq (dig "use-proxy-protocol" "" (default dict .config) | toString) "true") -}}
{{- if and .service.enabled .service.enableHttps (eq (toString .service.targetPorts.https) "http") (not $told) (ne (dig "ssl-redirect" "" (default dict .config) | toString) "false") -}}
{{- $lines = append $lines "controller.service.targetPorts.https=http: nothing tells the controller that a client came over https, so hosts with a tls section redirect to https forever. Set controller.config.use-forwarded-headers or use-proxy-protocol to \"true\", or ssl-redirect to \"false\"." -}}
{{- end -}}
{{- $drain := add (ceil .shutdownGracePeriodSeconds) (ceil .drainTimeoutSeconds) -}}
{{- if le (int64 .terminationGracePeriodSeconds) $drain -}}
{{- $lines = append $lines (printf "controller.terminationGracePeriodSeconds (%d) doesn't exceed shutdownGracePeriodSeconds and drainTimeoutSeconds together (%d): requests may be cut." (int .terminationGracePeriodSeconds) $drain) -}}
{{- end -}}
{{- $command := dig "preStop" "exec" "command" list (default dict .lifecycle) -}}
{{- if has "/wait-shutdown" $command -}}
{{- $lines = append $lines "controller.lifecycle: /wait-shutdown exists in ingress-nginx's image only; leave the value out to get this chart's pause." -}}
{{- end -}}
{{- $ready := dig "httpGet" "path" "/readyz" (default dict .readinessProbe) -}}
{{- if ne $ready "/readyz" -}}
{{- $lines = append $lines (printf "controller.readinessProbe asks %s; only /readyz waits for the first complete read and tells load balancers of a shut-down." $ready) -}}
{{- end -}}
{{- if .hostNetwork -}}
{{- if include "aioingress.lowPort" $ -}}
{{- $lines = append $lines "controller.hostNetwork with a port below 1024: on most nodes only root may listen there. Prefer controller.hostPort, or set controller.podSecurityContext and controller.containerSecurityContext." -}}
{{- end -}}
{{- end -}}
{{- if and .disableLeaderElection (or (ne .kind "Deployment") .autoscaling.enabled (gt (int .replicaCount) 1)) -}}
{{- $lines = append $lines "controller.disableLeaderElection with more than one replica: all of them write status, against each other." -}}
{{- end -}}
{{- if and .updateStatus (not .publishStatusAddress) (not (include "aioingress.publishesService" $)) $.Values.rbac.create $.Values.rbac.scope -}}
{{- $lines = append $lines "rbac.scope: addresses of nodes can't be read without a ClusterRole; set controller.publishStatusAddress." -}}
{{- end -}}
{{- if and $.Values.rbac.create $.Values.rbac.scope (not .ingressClass) -}}
{{- $lines = append $lines "rbac.scope: IngressClasses can't be read without a ClusterRole, and controller.ingressClass is empty." -}}
{{- end -}}
{{- if and .takeOverNginx.createClass (not .takeOverNginx.enabled) -}}
{{- $lines = append $lines (printf "controller.takeOverNginx.createClass: the IngressClass %q exists, but without controller.takeOverNginx.enabled its Ingresses aren't served." .takeOverNginx.className) -}}
{{- end -}}
{{- if and .autoscaling.enabled (ne .kind "Deployment") -}}
{{- $lines = append $lines "controller.autoscaling.enabled: a DaemonSet isn't scaled." -}}
{{- end -}}
{{- if and (not .metrics.enabled) (or .metrics.serviceMonitor.enabled .metrics.prometheusRule.enabled .metrics.dashboard.enabled) -}}
{{- $lines = append $lines "controller.metrics.enabled is false: no ServiceMonitor, PrometheusRule or dashboard was created." -}}
{{- end -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{/* Values and flags of ingress-nginx that are set and mean nothing here, one a line with the reason. */}}
{{- define "aioingress.ignored" -}}
{{- $lines := list -}}
{{- $known := .Files.Get "files/ignored.yaml" | fromYaml -}}
{{- range $path, $reason := $known.values -}}
{{- if include "aioingress.isSet" (dict "path" $path "values" $.Values) -}}
{{- $lines = append $lines (printf "%s: %s" $path $reason) -}}
{{- end -}}
{{- end -}}
{{- range $flag, $reason := $known.flags -}}
{{- if hasKey (default dict $.Values.controller.extraArgs) $flag -}}
{{- $lines = append $lines (printf "controller.extraArgs.%s: %s" $flag $reason) -}}
{{- end -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}
