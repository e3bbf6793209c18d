{{/* Prefix of the names of all objects: the release's name, with the chart's name unless it holds it already. */}}
{{- define "podtoken.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 31 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* Names of everything that belongs to the webhook, and to the controller. */}}
{{- define "podtoken.webhook.name" -}}
{{- printf "%s-webhook" (include "podtoken.fullname" .) -}}
{{- end -}}
{{- define "podtoken.controller.name" -}}
{{- printf "%s-controller" (include "podtoken.fullname" .) -}}
{{- end -}}

{{/* User name of the controller: what the guard of the controller looks for. */}}
{{- define "podtoken.controller.user" -}}
{{- printf "system:serviceaccount:%s:%s" .Release.Namespace (include "podtoken.controller.name" .) -}}
{{- end -}}

{{/*
The templates of labels take (list $ "component").

Labels that select the pods of a component. A Deployment's selector is immutable: never change them.
*/}}
{{- define "podtoken.selectorLabels" -}}
app.kubernetes.io/name: podtoken
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of a component's pods: none that would replace the pods when only the chart changes. */}}
{{- define "podtoken.podLabels" -}}
{{ include "podtoken.selectorLabels" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/part-of: podtoken
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "podtoken.labels" -}}
{{- $root := index . 0 -}}
{{ include "podtoken.podLabels" . }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* The same with more of the user's, which win over commonLabels: (list $ "component" labels). */}}
{{- define "podtoken.labelsAnd" -}}
{{- $own := include "podtoken.labels" (list (index . 0) (index . 1)) | fromYaml -}}
{{- mergeOverwrite $own (index . 2 | default dict) | toYaml -}}
{{- end -}}

{{/* Namespaces whose pods never reach the webhook. */}}
{{- define "podtoken.excludedNamespaces" -}}
{{- concat (list "kube-system" "kube-node-lease" .Release.Namespace) .Values.webhook.excludeNamespaces | uniq | toYaml -}}
{{- end -}}

{{/* A string in a message: messages are one line and at most 5 KiB, or the API server drops them, and callers choose the string. */}}
{{- define "podtoken.cel.quoted" -}}
strings.quote({{ . }}.size() <= 512 ? {{ . }} : {{ . }}.substring(0, 512) + '...')
{{- end -}}

{{/*
Which Pods request tokens, as matchConditions: for the webhook, and for the policies that check the same Pods. The API server evaluates
them for every Pod that is created, whoever creates it, so their cost is bounded. CEL accounts for the iterations of a comprehension in
time that grows with their square and not with their cost (refValStack.drop in cel-go's interpreter/runtimecost.go), so no comprehension
here has more than 64: 65,000 annotations in one would take 10 seconds. More annotations are formatted to one text instead,
{"key":"value", "key":"value"}, in linear time. It is as exact: quotes inside of keys and values are \", so {" and a blank with a
quote behind it are the beginning of a key and nothing else.

The prefix in another case counts, for the webhook rejects it.
*/}}
{{- define "podtoken.asksForTokens" -}}
- name: asks-for-tokens
  expression: >-
    {{- include "podtoken.asks" . | nindent 4 }}
{{ include "podtoken.notExempt" . }}
{{- end -}}

{{/* Which of them are podtoken's to inject, as further matchConditions. */}}
{{- define "podtoken.notExempt" -}}
- name: not-a-mirror-pod
  expression: >-
    !('kubernetes.io/config.mirror' in object.metadata.?annotations.orValue({}))
# Any other value is the webhook's to reject.
- name: not-switched-off
  expression: >-
    object.metadata.?annotations[?'podtoken.dev/inject'].orValue('') != 'false'
{{- end -}}

{{- define "podtoken.asks" -}}
size(object.metadata.?annotations.orValue({})) <= 64
? object.metadata.?annotations.orValue({}).exists(key, key.lowerAscii().startsWith('podtoken.dev/') && key != 'podtoken.dev/status')
: ['%s'.format([object.metadata.annotations]).replace('"podtoken.dev/status":', '"":').lowerAscii()].exists(text,
text.startsWith('{"podtoken.dev/') || text.contains(' "podtoken.dev/'))
{{- end -}}

{{/*
Variables of a policy: what the webhook has injected, as lists of at most one element. The sidecar is searched among the first 32 init
containers, because the webhook puts it to the front and other webhooks put few before it; the volume among all, of more than 256 among
the last 32, because the webhook appends it. A loop over all would cost more than linear time (see podtoken.asksForTokens).
*/}}
{{- define "podtoken.injected" -}}
- name: initContainers
  expression: object.spec.?initContainers.orValue([])
- name: sidecar
  expression: >-
    [{{ include "podtoken.indexes" 32 }}].map(i, i < size(variables.initContainers) && variables.initContainers[i].name == 'podtoken',
    variables.initContainers[i])
- name: volumes
  expression: object.spec.?volumes.orValue([])
- name: volume
  expression: >-
    size(variables.volumes) <= 256 ? variables.volumes.filter(v, v.name == 'podtoken')
    : [{{ include "podtoken.indexes" 32 }}].map(i, variables.volumes[size(variables.volumes) - 1 - i].name == 'podtoken',
    variables.volumes[size(variables.volumes) - 1 - i])
{{- end -}}

{{/* The numbers from 0 to one less than the argument, as elements of a list of CEL. */}}
{{- define "podtoken.indexes" -}}
{{- range $i := until (int .) }}{{ if $i }}, {{ end }}{{ $i }}{{ end }}
{{- end -}}

{{/* Where pods of podtoken's own run: (list $ "component" .Values.component). */}}
{{- define "podtoken.scheduling" -}}
{{- with (index . 2).priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    # A preference only: a cluster of one node runs both.
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "podtoken.selectorLabels" . | nindent 8 }}
    # Otherwise the pods of the previous revision count during an update.
    matchLabelKeys: [pod-template-hash]
{{- with (index . 2).nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 2).tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- merge (deepCopy (index . 2).affinity) (include "podtoken.otherZone" . | fromYaml) | toYaml | nindent 2 }}
{{- end -}}

{{/*
A preference for a zone that has no such pod. It is no topology spread constraint: the scheduler forgets about all of a pod's
preferred ones, that for nodes included, on nodes that lack one of their labels, as nodes without zones do.
*/}}
{{- define "podtoken.otherZone" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: topology.kubernetes.io/zone
        labelSelector:
          matchLabels:
            {{- include "podtoken.selectorLabels" . | nindent 12 }}
        matchLabelKeys: [pod-template-hash]
{{- end -}}

{{/* The security context of podtoken's own pods: (list runAsUser). */}}
{{- define "podtoken.podSecurityContext" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" (index . 0)) }}
runAsUser: {{ index . 0 | toJson }}
runAsGroup: {{ index . 0 | toJson }}
fsGroup: {{ index . 0 | toJson }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
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

{{/*
How a monitor scrapes: (list .Values.metrics.xMonitor "job"). The job has the same name in every installation, whatever the
release is called, because the alerts look for it.
*/}}
{{- define "podtoken.scrape" -}}
path: /metrics
scheme: http
{{- with (index . 0).interval }}
interval: {{ . }}
{{- end }}
{{- with (index . 0).scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
  - targetLabel: job
    replacement: {{ index . 1 }}
{{- end -}}
