{{/* A Service in front of the controller. Argument: dict "root" $ "service" VALUES "name" NAME "type" TYPE "ports" MAP "targetPorts" MAP "labels" MAP. */}}
{{- define "aioingress.service" -}}
{{- $root := .root -}}
{{- $type := .type -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ include "aioingress.namespace" $root }}
  labels:
    {{- include "aioingress.controllerLabels" $root | nindent 4 }}
    {{- with .labels }}
    {{- include "aioingress.strings" . | nindent 4 }}
    {{- end }}
  {{- with .service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $type }}
  {{- with .service.clusterIP }}
  clusterIP: {{ . | quote }}
  {{- end }}
  {{- with .service.clusterIPs }}
  clusterIPs:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .service.externalIPs }}
  externalIPs:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq $type "LoadBalancer" }}
  {{- with .service.loadBalancerIP }}
  loadBalancerIP: {{ . | quote }}
  {{- end }}
  {{- with .service.loadBalancerClass }}
  loadBalancerClass: {{ . | quote }}
  {{- end }}
  {{- with .service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if kindIs "bool" .service.allocateLoadBalancerNodePorts }}
  allocateLoadBalancerNodePorts: {{ .service.allocateLoadBalancerNodePorts }}
  {{- end }}
  {{- end }}
  {{- if and .service.externalTrafficPolicy (or (ne $type "ClusterIP") .service.externalIPs) }}
  externalTrafficPolicy: {{ .service.externalTrafficPolicy }}
  {{- end }}
  {{- with .service.internalTrafficPolicy }}
  internalTrafficPolicy: {{ . }}
  {{- end }}
  {{- with .service.trafficDistribution }}
  trafficDistribution: {{ . }}
  {{- end }}
  {{- with .service.sessionAffinity }}
  sessionAffinity: {{ . }}
  {{- end }}
  {{- if and .service.healthCheckNodePort (eq $type "LoadBalancer") (eq .service.externalTrafficPolicy "Local") }}
  healthCheckNodePort: {{ int .service.healthCheckNodePort }}
  {{- end }}
  {{- with .service.ipFamilyPolicy }}
  ipFamilyPolicy: {{ . }}
  {{- end }}
  {{- with .service.ipFamilies }}
  ipFamilies:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- if $root.Values.controller.service.enableHttp }}
    - name: http
      port: {{ int .ports.http }}
      protocol: TCP
      targetPort: {{ .targetPorts.http }}
      {{- if .service.appProtocol }}
      appProtocol: http
      {{- end }}
      {{- if and (ne $type "ClusterIP") .service.nodePorts.http }}
      nodePort: {{ int .service.nodePorts.http }}
      {{- end }}
    {{- end }}
    {{- if $root.Values.controller.service.enableHttps }}
    - name: https
      port: {{ int .ports.https }}
      protocol: TCP
      targetPort: {{ .targetPorts.https }}
      {{- if .service.appProtocol }}
      appProtocol: https
      {{- end }}
      {{- if and (ne $type "ClusterIP") .service.nodePorts.https }}
      nodePort: {{ int .service.nodePorts.https }}
      {{- end }}
    {{- end }}
    {{- $service := .service }}
    {{- range $port, $target := $root.Values.tcp }}
    - name: {{ printf "%s%s-tcp" (ternary (printf "%s-" $root.Values.portNamePrefix) "" (ne $root.Values.portNamePrefix "")) $port }}
      port: {{ $port }}
      protocol: TCP
      targetPort: {{ printf "%s-tcp" $port }}
      {{- if and (ne $type "ClusterIP") (hasKey (default dict $service.nodePorts.tcp) $port) }}
      nodePort: {{ int (index $service.nodePorts.tcp $port) }}
      {{- end }}
    {{- end }}
  selector:
    {{- include "aioingress.controllerSelector" $root | nindent 4 }}
{{- end -}}
