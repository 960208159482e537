{{- define "aioingress.podSecurityContext" -}}
{{- $context := deepCopy (default dict .Values.controller.podSecurityContext) -}}
{{- $sysctls := default list $context.sysctls -}}
{{- range $name, $value := .Values.controller.sysctls -}}
{{- $sysctls = append $sysctls (dict "name" $name "value" (include "aioingress.scalar" $value)) -}}
{{- end -}}
{{- /* A capability that is added to a container doesn't reach a process that isn't root, unless the runtime makes it ambient. The
sysctl does; it is safe, exists since Linux 4.11, and can't be set in the node's own network. */ -}}
{{- $taken := false -}}
{{- range $sysctls -}}{{- if eq .name "net.ipv4.ip_unprivileged_port_start" -}}{{- $taken = true -}}{{- end -}}{{- end -}}
{{- if and (include "aioingress.lowPort" .) (not .Values.controller.hostNetwork) (not $taken) -}}
{{- $sysctls = append $sysctls (dict "name" "net.ipv4.ip_unprivileged_port_start" "value" "0") -}}
{{- end -}}
{{- if $sysctls -}}{{- $_ := set $context "sysctls" $sysctls -}}{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "aioingress.containerSecurityContext" -}}
{{- $context := deepCopy (default dict .Values.controller.containerSecurityContext) -}}
{{- if include "aioingress.lowPort" . -}}
{{- $capabilities := default dict $context.capabilities -}}
{{- $add := default list $capabilities.add -}}
{{- $_ := set $capabilities "add" (append $add "NET_BIND_SERVICE" | uniq) -}}
{{- $_ := set $context "capabilities" $capabilities -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* The template of the controller's Pods, for a Deployment and a DaemonSet alike. The options ConfigMap is read live: no checksum here;
nor the labels of the chart, which would restart all Pods for a change of the chart alone. */}}
{{- define "aioingress.podTemplate" -}}
metadata:
  labels:
    {{- include "aioingress.controllerSelector" . | nindent 4 }}
    {{- with merge dict (default dict .Values.controller.podLabels) (default dict .Values.commonLabels) }}
    {{- include "aioingress.strings" . | nindent 4 }}
    {{- end }}
  {{- with .Values.controller.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "aioingress.serviceAccount" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automountServiceAccountToken }}
  # Variables for every Service of the namespace could be taken for options (INGRESS_...).
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.controller }}
  terminationGracePeriodSeconds: {{ int .terminationGracePeriodSeconds }}
  {{- with .priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- if .hostNetwork }}
  hostNetwork: true
  {{- end }}
  {{- if .shareProcessNamespace }}
  shareProcessNamespace: true
  {{- end }}
  dnsPolicy: {{ default (ternary "ClusterFirstWithHostNet" "ClusterFirst" .hostNetwork) .dnsPolicy }}
  {{- with .dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "aioingress.podSecurityContext" $ | nindent 4 }}
  {{- with .extraInitContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .containerName }}
      image: {{ include "aioingress.image" (dict "image" .image "root" $ "tag" $.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .image.pullPolicy }}
      command: [ingress]
      args:
        {{- include "aioingress.args" $ | nindent 8 }}
      env:
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
        {{- with .extraEnvs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: {{ int .containerPort.http }}
          protocol: TCP
          {{- if .hostPort.enabled }}
          hostPort: {{ ternary (int .containerPort.http) (int .hostPort.ports.http) .hostNetwork }}
          {{- end }}
        - name: https
          containerPort: {{ int .containerPort.https }}
          protocol: TCP
          {{- if .hostPort.enabled }}
          hostPort: {{ ternary (int .containerPort.https) (int .hostPort.ports.https) .hostNetwork }}
          {{- end }}
        - name: {{ .metrics.portName }}
          containerPort: {{ include "aioingress.metricsPort" $ }}
          protocol: TCP
        {{- range $port, $target := $.Values.tcp }}
        - name: {{ printf "%s-tcp" $port }}
          containerPort: {{ $port }}
          protocol: TCP
          {{- if $.Values.controller.hostPort.enabled }}
          hostPort: {{ $port }}
          {{- end }}
        {{- end }}
      {{- with .lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .startupProbe }}
      startupProbe:
        {{- include "aioingress.probe" (dict "probe" . "root" $) | nindent 8 }}
      {{- end }}
      {{- with .livenessProbe }}
      livenessProbe:
        {{- include "aioingress.probe" (dict "probe" . "root" $) | nindent 8 }}
      {{- end }}
      {{- with .readinessProbe }}
      readinessProbe:
        {{- include "aioingress.probe" (dict "probe" . "root" $) | nindent 8 }}
      {{- end }}
      {{- with .resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "aioingress.containerSecurityContext" $ | nindent 8 }}
      {{- with .extraVolumeMounts }}
      volumeMounts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- with .extraContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- with .extraVolumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .affinity }}
  affinity:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  {{- with .topologySpreadConstraints }}
  {{- $constraints := list }}
  {{- range . }}
  {{- $constraint := deepCopy . }}
  {{- if not (hasKey $constraint "labelSelector") }}
  {{- $_ := set $constraint "labelSelector" (dict "matchLabels" (include "aioingress.controllerSelector" $ | fromYaml)) }}
  {{- end }}
  {{- $constraints = append $constraints $constraint }}
  {{- end }}
  topologySpreadConstraints:
    {{- tpl (toYaml $constraints) $ | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* A probe; a port named "metrics" follows controller.metrics.portName. Argument: dict "probe" PROBE "root" $. */}}
{{- define "aioingress.probe" -}}
{{- $probe := deepCopy .probe -}}
{{- if and $probe.httpGet (eq (toString $probe.httpGet.port) "metrics") -}}
{{- $_ := set $probe.httpGet "port" .root.Values.controller.metrics.portName -}}
{{- end -}}
{{- toYaml $probe -}}
{{- end -}}

{{/* Strategy of the Deployment or DaemonSet: a new Pod first, unless both would need the same ports of a node. */}}
{{- define "aioingress.updateStrategy" -}}
{{- if .Values.controller.updateStrategy -}}
{{- toYaml .Values.controller.updateStrategy -}}
{{- else -}}
type: RollingUpdate
rollingUpdate:
  maxSurge: {{ ternary 0 1 (eq (include "aioingress.holdsNodePorts" .) "true") }}
  maxUnavailable: {{ ternary 1 0 (eq (include "aioingress.holdsNodePorts" .) "true") }}
{{- end -}}
{{- end -}}
