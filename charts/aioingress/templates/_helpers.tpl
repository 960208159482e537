{{/* ---- names ---- */}}

{{- define "aioingress.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "aioingress.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 43 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "aioingress.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "aioingress.controller" -}}
{{- printf "%s-%s" (include "aioingress.fullname" .) .Values.controller.name | trunc 54 | trimSuffix "-" -}}
{{- end -}}

{{- define "aioingress.backend" -}}
{{- printf "%s-%s" (include "aioingress.fullname" .) .Values.defaultBackend.name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "aioingress.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "aioingress.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "aioingress.backendServiceAccount" -}}
{{- with .Values.defaultBackend.serviceAccount -}}
{{- if .create -}}
{{- default (include "aioingress.backend" $) .name -}}
{{- else -}}
{{- default "default" .name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "aioingress.electionID" -}}
{{- default (printf "%s-leader" (include "aioingress.fullname" .)) .Values.controller.electionID -}}
{{- end -}}

{{/* Namespace that is watched alone; empty: all of them. */}}
{{- define "aioingress.watchNamespace" -}}
{{- if .Values.controller.scope.enabled -}}
{{- default (include "aioingress.namespace" .) .Values.controller.scope.namespace -}}
{{- end -}}
{{- end -}}

{{/* ---- labels ---- */}}

{{- define "aioingress.selector" -}}
app.kubernetes.io/name: {{ include "aioingress.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "aioingress.controllerSelector" -}}
{{ include "aioingress.selector" . }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "aioingress.backendSelector" -}}
{{ include "aioingress.selector" . }}
app.kubernetes.io/component: default-backend
{{- end -}}

{{- define "aioingress.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "aioingress.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/part-of: {{ include "aioingress.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ include "aioingress.strings" . }}
{{- end }}
{{- end -}}

{{- define "aioingress.controllerLabels" -}}
{{ include "aioingress.labels" . }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "aioingress.backendLabels" -}}
{{ include "aioingress.labels" . }}
app.kubernetes.io/component: default-backend
{{- with .Values.defaultBackend.labels }}
{{ include "aioingress.strings" . }}
{{- end }}
{{- end -}}

{{/* ---- values ---- */}}

{{/* A number, boolean or string as text; whole numbers without exponent, though Helm reads every number as a float. */}}
{{- define "aioingress.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* A map of scalars as a map of strings, in the order of its keys; entries without value are left out. */}}
{{- define "aioingress.strings" -}}
{{- $lines := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $lines = append $lines (printf "%s: %s" (quote $key) (include "aioingress.scalar" $value | quote)) -}}
{{- end -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{/* Argument: dict "image" IMAGE "root" $ "tag" DEFAULT. */}}
{{- define "aioingress.image" -}}
{{- $registry := default .root.Values.global.image.registry .image.registry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (include "aioingress.scalar" (default .tag .image.tag)) -}}
{{- end -}}
{{- end -}}

{{- define "aioingress.metricsPort" -}}
{{- default .Values.controller.containerPort.metrics .Values.controller.metrics.port | int -}}
{{- end -}}

{{/* "true" if a listener of the Pod needs a port below 1024. */}}
{{- define "aioingress.lowPort" -}}
{{- $ports := list .Values.controller.containerPort.http .Values.controller.containerPort.https (include "aioingress.metricsPort" .) -}}
{{- range $port, $target := .Values.tcp -}}{{- $ports = append $ports $port -}}{{- end -}}
{{- range $ports -}}{{- if lt (int .) 1024 -}}true{{- end -}}{{- end -}}
{{- end -}}

{{/* "true" if a Pod holds ports of its node, so that two of them don't fit on one. */}}
{{- define "aioingress.holdsNodePorts" -}}
{{- if or .Values.controller.hostNetwork .Values.controller.hostPort.enabled -}}true{{- end -}}
{{- end -}}

{{- define "aioingress.publishesService" -}}
{{- if and .Values.controller.publishService.enabled (not .Values.controller.publishStatusAddress) -}}
{{- if or .Values.controller.publishService.pathOverride (and .Values.controller.service.enabled (or .Values.controller.service.external.enabled .Values.controller.service.internal.enabled)) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "aioingress.publishedService" -}}
{{- if .Values.controller.publishService.pathOverride -}}
{{- .Values.controller.publishService.pathOverride -}}
{{- else if .Values.controller.service.external.enabled -}}
{{- printf "$(POD_NAMESPACE)/%s" (include "aioingress.controller" .) -}}
{{- else -}}
{{- printf "$(POD_NAMESPACE)/%s-internal" (include "aioingress.controller" .) -}}
{{- end -}}
{{- end -}}

{{/* "true" if there is more than one replica at all times: only then a PodDisruptionBudget doesn't block the draining of a node. */}}
{{- define "aioingress.isReplicated" -}}
{{- if eq .Values.controller.kind "Deployment" -}}
{{- if .Values.controller.autoscaling.enabled -}}
{{- if gt (int .Values.controller.autoscaling.minReplicas) 1 -}}true{{- end -}}
{{- else if gt (int .Values.controller.replicaCount) 1 -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuses what no schema can. */}}
{{- define "aioingress.validate" -}}
{{- if and .Values.rbac.create .Values.rbac.scope (not .Values.controller.scope.enabled) -}}
{{- fail "rbac.scope is true, but controller.scope.enabled is not: a controller that watches every namespace needs a ClusterRole" -}}
{{- end -}}
{{- if and .Values.defaultBackend.enabled (not .Values.defaultBackend.image.repository) -}}
{{- fail "defaultBackend.enabled is true, but defaultBackend.image.repository is empty: name an image that answers 404 on / and 200 on /healthz" -}}
{{- end -}}
{{- with .Values.controller -}}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- fail (printf "controller.autoscaling.minReplicas is %d, more than maxReplicas (%d)" (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and .takeOverNginx.createClass (has .takeOverNginx.className (prepend (default list .ingressClassResource.aliases) .ingressClassResource.name)) -}}
{{- fail (printf "controller.takeOverNginx.className and controller.ingressClassResource both name the IngressClass %q" .takeOverNginx.className) -}}
{{- end -}}
{{- end -}}
{{- end -}}
