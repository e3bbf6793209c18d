{{/*
The guard: which tokens a caller may request at serviceaccounts/token. Takes (dict "name" .. "labels" .. "keep" true);
it has no other inputs, so that it is the same for every installation, and no params (a missing param object would deny
every kubelet's token requests: the API server looks for it before it looks at matchConditions).

The API server authorizes a request when its headers are there, and runs admission after the body has arrived
(k8s.io/apiserver@v0.37.2/pkg/endpoints/handlers/create.go), up to --request-timeout later. A right can be withdrawn in
between. So the guard does not rely on what was authorized: it asks the authorizer again, and decides by today's answers.

	caller (for ServiceAccount <name>)         create   by                    mark   unguarded   decision
	1  kubelet, kube-controller-manager,
	   group system:masters                    -        -                     -      -           let through (matchConditions)
	2  any                                     no       -                     any    any         denied: the right was withdrawn
	3  any                                     yes      any                   any    yes         allowed (wildcards, and explicit permissions)
	4  <name> itself                           yes      podtoken's grant      any    no          what the grant declares, bound to the calling Pod
	5  <name> itself                           yes      another, or unknown   yes    no          the same: the mark counts beside a Role written by hand
	6  <name> itself                           yes      another binding       no     no          allowed: podtoken-guard-strict denies it
	7  any other ServiceAccount or user        yes      podtoken's grant      any    no          denied: a copied grant
	8  any other ServiceAccount or user        yes      another, or unknown   yes    no          denied: a copied grant
	9  any other ServiceAccount or user        yes      another binding       no     no          allowed: people and operators that mint for others
	10 a ServiceAccount, <name> itself or not  yes      reason is not RBAC's  no     no          denied: podtoken cannot tell its grant from other rights
	11 any other user                          yes      reason is not RBAC's  no     no          allowed: webhook authorizers of clouds let people in

"create": may create serviceaccounts/token <name> now. "by": the reason of that decision, which names the binding
(k8s.io/kubernetes@v1.37.2/plugin/pkg/auth/authorizer/rbac/rbac.go); it is one answer for one moment, so that a grant that
goes and comes again between two questions is seen as what it is. It is no API: a test compares it on each supported version,
and row 10 is what an unknown reason means. "mark": may mint tokens.podtoken.dev <name>. "unguarded": may mint
tokens.unguarded.podtoken.dev <name>, which a caller that may do everything may too.

One call of an authorizer costs 350,000 of the 1,000,000 units of an expression and of the 10,000,000 of a binding, hence an
expression for each audience: 8 audiences need at most 20 calls. Conditions have no variables and are all evaluated, also for
kubelets, before the first that is false counts: they compare strings only. A grant can change
between two questions: then each audience and the lifetime were granted at some moment of the request, not necessarily the same one.
messageExpression and auditAnnotations have no authorizer. A message must be one line of at most 5 KiB, or the API server drops it: what
callers choose is quoted, and cut.
*/}}
{{- define "podtoken.guard" -}}
{{ include "podtoken.guard.policy" . }}
  variables:
    - name: self
      expression: >-
        request.userInfo.username == 'system:serviceaccount:' + request.namespace + ':' + request.name
    {{- include "podtoken.guard.mark" . | nindent 4 }}
    - name: create
      expression: >-
        authorizer.group('').resource('serviceaccounts').subresource('token').namespace(request.namespace).name(request.name)
        .check('create')
    - name: allowed
      expression: variables.create.allowed()
    - name: byGrant
      expression: >-
        variables.allowed && variables.create.reason()
        .matches({{ include "podtoken.guard.reasonOfGrant" . }})
    - name: unknownReason
      expression: >-
        variables.allowed && request.userInfo.username.startsWith('system:serviceaccount:') &&
        !variables.create.reason().matches({{ include "podtoken.guard.reasonOfRBAC" . }})
    {{- include "podtoken.guard.unguarded" . | nindent 4 }}
    # Rows 2, 4, 5, 7, 8 and 10. The mark comes first: what takes it takes the right before, or with it.
    - name: guarded
      expression: >-
        (variables.mark || !variables.allowed || variables.byGrant || variables.unknownReason) &&
        (!variables.allowed || !variables.unguarded)
    - name: extra
      expression: request.userInfo.?extra.orValue({})
    - name: podName
      expression: variables.extra[?'authentication.kubernetes.io/pod-name'].orValue(['']).join(',')
    - name: podUID
      expression: variables.extra[?'authentication.kubernetes.io/pod-uid'].orValue(['']).join(',')
    - name: reference
      expression: object.spec.?boundObjectRef
    - name: audiences
      expression: object.spec.?audiences.orValue([])
    - name: seconds
      expression: object.spec.?expirationSeconds.orValue(3600)
    {{- include "podtoken.guard.account" . | nindent 4 }}
    - name: caller
      expression: >-
        {{ include "podtoken.cel.quoted" "request.userInfo.username" }}
    {{- range $i := until 8 }}
    - name: renew{{ $i }}
      expression: >-
        size(variables.audiences) <= {{ $i }} ||
        authorizer.group('podtoken.dev').resource('audiences').namespace(request.namespace)
        .name(variables.audiences[{{ $i }}]).check('renew').allowed()
    {{- end }}
    # The sidecar renews the credential that it was given: the API server's audiences and no other, for at most an hour.
    - name: renewing
      expression: >-
        size(variables.audiences) > 0 && size(variables.audiences) <= 8 && variables.seconds <= 3600
        {{- range $i := until 8 }} && variables.renew{{ $i }}{{ end }}
  validations:
    # Never granted to any caller: the controller, and doctor, request it to learn whether an API server enforces this text. The
    # number changes when a controller must not grant anything under an older text.
    - expression: "variables.audiences != ['podtoken.dev/guard-probe']"
      message: "podtoken: guard revision 2 is enforced"
      reason: Forbidden
    - expression: "!variables.guarded || variables.allowed"
      messageExpression: >-
        'podtoken: ' + variables.caller + ' is not allowed to create tokens of ' + variables.account + ' any more: '
        + 'the right was withdrawn after the request was authorized'
      reason: Forbidden
    - expression: "!variables.guarded || variables.mark || variables.byGrant || !variables.unknownReason"
      messageExpression: >-
        'podtoken: the guard does not know the reason for which the API server allows ' + variables.caller
        + ' to create tokens of ' + variables.account + ', and cannot tell it from a grant of podtoken. To exempt the caller, allow it to mint '
        + 'tokens.unguarded.podtoken.dev "' + request.name + '" (see "The guard" in docs/security.md)'
      reason: Forbidden
    - expression: "!variables.guarded || variables.self"
      messageExpression: >-
        'podtoken: ' + variables.caller + ' has the grant of ' + variables.account + ', which is for that ServiceAccount alone: '
        + 'find the copied Role and RoleBinding (kubectl -n ' + request.namespace + ' get rolebindings -o wide), and delete them'
      reason: Forbidden
    - expression: "!variables.guarded || variables.podUID != '' && variables.podName != ''"
      messageExpression: >-
        'podtoken: ' + variables.account + ' may mint tokens for itself only with a credential that is bound to a pod: '
        + 'use the one of the sidecar'
      reason: Forbidden
    - expression: >-
        !variables.guarded || variables.reference.hasValue() &&
        variables.reference.value().?kind.orValue('') == 'Pod' &&
        variables.reference.value().?apiVersion.orValue('') == 'v1' &&
        variables.reference.value().?name.orValue('') == variables.podName &&
        variables.reference.value().?uid.orValue('') == variables.podUID
      messageExpression: >-
        'podtoken: ' + variables.account + ' may mint only tokens that are bound to the calling pod: spec.boundObjectRef '
        + 'must have apiVersion v1, kind Pod, name ' + strings.quote(variables.podName) + ' and uid ' + strings.quote(variables.podUID)
      reason: Forbidden
    - expression: >-
        !variables.guarded || size(variables.audiences) > 0 && size(variables.audiences) <= 8 && variables.audiences.all(a, a != '')
      messageExpression: >-
        'podtoken: ' + variables.account + ' may mint only tokens of 1 to 8 audiences, none of them empty; this one asks for '
        + string(size(variables.audiences))
      reason: Forbidden
    - expression: >-
        !variables.guarded || variables.renewing ||
        authorizer.group('podtoken.dev').resource('lifetimes').namespace(request.namespace)
        .name(string(variables.seconds)).check('mint').allowed()
      messageExpression: >-
        'podtoken: ' + variables.account + ' may not mint tokens that last ' + string(variables.seconds) + ' s: it may for the '
        + 'lifetimes that its pods declare (annotation podtoken.dev/expiration), exactly, and renew its API credential for up to 3600 s'
      reason: Forbidden
    {{- range $i := until 8 }}
    - expression: >-
        !variables.guarded || size(variables.audiences) <= {{ $i }} || variables.renewing ||
        authorizer.group('podtoken.dev').resource('audiences').namespace(request.namespace)
        .name(variables.audiences[{{ $i }}]).check('mint').allowed()
      messageExpression: >-
        'podtoken: ' + variables.account + ' may not mint tokens for audience ' + {{ include "podtoken.cel.quoted" (printf "variables.audiences[%d]" $i) }}
        + ': it may for '
        + 'the audiences that its pods declare (annotation podtoken.dev/audience) and the policy allows'
      reason: Forbidden
    {{- end }}
  auditAnnotations:
    - key: audiences
      valueExpression: "variables.self ? variables.audiences.join(', ') : ''"
    - key: lifetime
      valueExpression: "variables.self ? string(variables.seconds) : ''"
    - key: pod
      valueExpression: "variables.self ? request.namespace + '/' + variables.podName : ''"
---
{{ include "podtoken.guard.binding" (merge (dict "actions" "[Deny, Audit]") .) -}}
{{- end -}}

{{/*
The strict guard: rows 5 and 6 of the table. Takes (dict "name" .. "labels" .. "actions" "[Deny, Audit]" or "[Audit]"). What
it does not deny is still for the guard to decide: both get the same answers of the authorizer, which the API server keeps
for the time of one admission request.
*/}}
{{- define "podtoken.guard.strict" -}}
{{ include "podtoken.guard.policy" . }}
    - name: for-itself
      expression: >-
        request.userInfo.username == 'system:serviceaccount:' + request.namespace + ':' + request.name
  variables:
    {{- include "podtoken.guard.mark" . | nindent 4 }}
    {{- include "podtoken.guard.unguarded" . | nindent 4 }}
    {{- include "podtoken.guard.account" . | nindent 4 }}
  validations:
    - expression: variables.mark || variables.unguarded
      messageExpression: >-
        'podtoken: ' + variables.account + ' requests a token for itself by a right that is not a grant of podtoken. Annotate its Pods, so that '
        + 'podtoken grants what they declare, or exempt it: allow it to mint tokens.unguarded.podtoken.dev "' + request.name
        + '" (see "The strict guard" in docs/security.md)'
      reason: Forbidden
---
{{ include "podtoken.guard.binding" . -}}
{{- end -}}

{{/* The metadata of a guard, and which requests it sees, without what follows the last matchCondition. */}}
{{- define "podtoken.guard.policy" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
{{ include "podtoken.guard.metadata" . }}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    resourceRules:
      - operations: [CREATE]
        apiGroups: [""]
        apiVersions: [v1]
        resources: [serviceaccounts/token]
        scope: Namespaced
  matchConditions:
    - name: not-a-kubelet
      expression: >-
        !(request.userInfo.username.startsWith('system:node:') && 'system:nodes' in request.userInfo.?groups.orValue([]))
    - name: not-the-control-plane
      expression: >-
        request.userInfo.username != 'system:kube-controller-manager' && !('system:masters' in request.userInfo.?groups.orValue([]))
{{- end -}}

{{- define "podtoken.guard.metadata" -}}
metadata:
  name: {{ .name }}
  {{- with .labels }}
  labels:
    {{- . | nindent 4 }}
  {{- end }}
  {{- if .keep }}
  # Grants are not of the release, and would stay without it. So Helm never deletes it, whatever it does; cleanup-hook.yaml does.
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
{{- end -}}

{{/* The reasons of RBAC's decisions, as strings of CEL: by a grant, or by any binding. */}}
{{- define "podtoken.guard.reasonOfGrant" -}}
'^RBAC: allowed by (RoleBinding "podtoken:|(Cluster)?RoleBinding "([^"\\\\]|\\\\.)*" of (Cluster)?Role "podtoken:)'
{{- end -}}
{{- define "podtoken.guard.reasonOfRBAC" -}}
'^RBAC: allowed by (Cluster)?RoleBinding "([^"\\\\]|\\\\.)*" of (Cluster)?Role "([^"\\\\]|\\\\.)*" to '
{{- end -}}

{{/* The answers of the authorizer that both guards ask for. */}}
{{- define "podtoken.guard.mark" -}}
- name: mark
  expression: >-
    authorizer.group('podtoken.dev').resource('tokens').namespace(request.namespace).name(request.name)
    .check('mint').allowed()
{{- end -}}
{{- define "podtoken.guard.unguarded" -}}
- name: unguarded
  expression: >-
    authorizer.group('unguarded.podtoken.dev').resource('tokens').namespace(request.namespace).name(request.name)
    .check('mint').allowed()
{{- end -}}
{{- define "podtoken.guard.account" -}}
- name: account
  expression: >-
    'ServiceAccount "' + request.name + '" in namespace "' + request.namespace + '"'
{{- end -}}

{{- define "podtoken.guard.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
{{ include "podtoken.guard.metadata" . }}
spec:
  policyName: {{ .name }}
  validationActions: {{ .actions }}
{{- end -}}
