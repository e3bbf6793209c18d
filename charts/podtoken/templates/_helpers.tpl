{{/* Prefix of the names of all objects: the release's name, with the chart's name unless it holds it already. */}}
{{- define "podtoken.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 31 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* Name of everything that belongs to the webhook. */}}
{{- define "podtoken.webhook.name" -}}
{{- printf "%s-webhook" (include "podtoken.fullname" .) -}}
{{- end -}}

{{/* Labels that select the webhook's pods. A Deployment's selector is immutable: never change them. */}}
{{- define "podtoken.webhook.selectorLabels" -}}
app.kubernetes.io/name: podtoken
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: webhook
{{- end -}}

{{/* Labels of the webhook's pods: none that would replace the pods when only the chart changes. */}}
{{- define "podtoken.webhook.podLabels" -}}
{{ include "podtoken.webhook.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: podtoken
{{- end -}}

{{/* Labels of every object. */}}
{{- define "podtoken.webhook.labels" -}}
{{ include "podtoken.webhook.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/*
Reference of an image, from (dict "root" $ "image" .Values.x.image): [registry/]repository, then @digest if there is
one, else :tag if there is one, else :appVersion.
*/}}
{{- define "podtoken.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.image.registry -}}
{{- $repository = printf "%s/%s" . $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The issuer of the serving certificate. */}}
{{- define "podtoken.issuerRef" -}}
{{- with .Values.tls.certManager.issuerRef -}}
name: {{ .name }}
kind: {{ .kind | default "Issuer" }}
group: {{ .group | default "cert-manager.io" }}
{{- else -}}
name: {{ include "podtoken.webhook.name" . }}-ca
kind: Issuer
group: cert-manager.io
{{- end -}}
{{- end -}}
