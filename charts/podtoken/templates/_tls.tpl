{{/*
Who makes the serving certificate: certManager, selfManaged or secret; also with values of a release before there was a
choice. What the modes need is checked here, because the schema's messages would not say what to do.
*/}}
{{- define "podtoken.tls.mode" -}}
{{- $mode := .Values.tls.mode | default "certManager" -}}
{{- $secret := .Values.tls.secret | default dict -}}
{{- if eq $mode "secret" -}}
  {{- if not (and $secret.name $secret.caBundle) -}}
    {{- fail "tls.mode=secret needs tls.secret.name, the Secret with tls.crt and tls.key, and tls.secret.caBundle, the PEM certificates of the CA that API servers shall trust" -}}
  {{- end -}}
  {{- if contains "PRIVATE KEY" $secret.caBundle -}}
    {{- fail "tls.secret.caBundle has a private key, but everybody may read it: give the certificates of the CA alone" -}}
  {{- end -}}
{{- else if or $secret.name $secret.caBundle -}}
  {{- fail (printf "tls.secret.name and tls.secret.caBundle have no effect with tls.mode=%s: remove them, or set tls.mode=secret" $mode) -}}
{{- end -}}
{{- $mode -}}
{{- end -}}

{{/* The Secret that the webhook's pods mount. */}}
{{- define "podtoken.tls.secretName" -}}
{{- if eq (include "podtoken.tls.mode" .) "secret" -}}
{{- .Values.tls.secret.name -}}
{{- else -}}
{{- include "podtoken.webhook.name" . }}-tls
{{- end -}}
{{- end -}}

{{/* The name under which API servers call the webhook's Service. */}}
{{- define "podtoken.tls.dnsName" -}}
{{ include "podtoken.webhook.name" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/*
Helm's own message would be "no matches for kind Certificate". Only where a cluster is there to look at: what
`helm template` and GitOps tools render must not depend on it. Without a cluster Helm knows groups and versions but no
kinds; a tool may give it a list with kinds, but then lookup still finds nothing.
*/}}
{{- define "podtoken.tls.requireCertManager" -}}
{{- if and (not (.Capabilities.APIVersions.Has "cert-manager.io/v1")) (.Capabilities.APIVersions.Has "v1/Service") -}}
  {{- if lookup "v1" "Service" "default" "kubernetes" -}}
    {{- fail "this cluster has no cert-manager, which makes the webhook's certificate: install cert-manager first, or set tls.mode=selfManaged, or tls.mode=secret" -}}
  {{- end -}}
{{- end -}}
{{- end -}}
