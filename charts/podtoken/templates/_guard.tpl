{{/*
The guard: what a ServiceAccount that podtoken lets mint for itself may mint. Takes (dict "name" .. "labels" ..); it
has no other inputs, so that it is the same for every installation, and no params (a missing param object would refuse
every kubelet's token requests: the API server looks for it before it looks at matchConditions).

Everything is asked of the API server's own authorizer, that is, of the Roles that the controller writes (see
"grants" in docs/security.md). One call of an authorizer costs 350,000 of the 1,000,000 units of an expression and of
the 10,000,000 of a binding, hence an expression for each audience: 8 audiences need at most 18 calls.
*/}}
{{- define "podtoken.guard" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ .name }}
  {{- with .labels }}
  labels:
    {{- . | nindent 4 }}
  # Grants are not of the release, and would stay without it. So Helm never deletes it, whatever it does; cleanup-hook.yaml does.
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
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
  # Kubelets, people, and controllers that mint for others never match, nor does who mints for itself by a right that is
  # not podtoken's.
  matchConditions:
    - name: minting-for-itself
      expression: >-
        request.userInfo.username == 'system:serviceaccount:' + request.namespace + ':' + request.name
    - name: granted-by-podtoken
      expression: >-
        authorizer.group('podtoken.dev').resource('tokens').namespace(request.namespace).name(request.name)
        .check('mint').allowed()
    # Who may do everything holds the mark too, and may mint for itself without podtoken's grant.
    - name: not-by-a-wildcard
      expression: >-
        !authorizer.group('wildcard.podtoken.dev').resource('tokens').namespace(request.namespace).name(request.name)
        .check('mint').allowed()
  variables:
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
    - name: account
      expression: >-
        'ServiceAccount "' + request.name + '" in namespace "' + request.namespace + '"'
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
    - expression: variables.podUID != '' && variables.podName != ''
      messageExpression: >-
        'podtoken: ' + variables.account + ' may mint tokens for itself only with a credential that is bound to a pod: '
        + 'use the one of the sidecar'
      reason: Forbidden
    - expression: >-
        variables.reference.hasValue() &&
        variables.reference.value().?kind.orValue('') == 'Pod' &&
        variables.reference.value().?apiVersion.orValue('') == 'v1' &&
        variables.reference.value().?name.orValue('') == variables.podName &&
        variables.reference.value().?uid.orValue('') == variables.podUID
      messageExpression: >-
        'podtoken: ' + variables.account + ' may mint only tokens that are bound to the calling pod: spec.boundObjectRef '
        + 'must have apiVersion v1, kind Pod, name "' + variables.podName + '" and uid "' + variables.podUID + '"'
      reason: Forbidden
    - expression: >-
        size(variables.audiences) > 0 && size(variables.audiences) <= 8 && variables.audiences.all(a, a != '')
      messageExpression: >-
        'podtoken: ' + variables.account + ' may mint only tokens of 1 to 8 audiences, none of them empty; this one asks for '
        + string(size(variables.audiences))
      reason: Forbidden
    - expression: >-
        variables.renewing ||
        authorizer.group('podtoken.dev').resource('lifetimes').namespace(request.namespace)
        .name(string(variables.seconds)).check('mint').allowed()
      messageExpression: >-
        'podtoken: ' + variables.account + ' may not mint tokens that last ' + string(variables.seconds) + ' s: it may for the '
        + 'lifetimes that its pods declare (annotation podtoken.dev/expiration), exactly, and renew its API credential for up to 3600 s'
      reason: Forbidden
    {{- range $i := until 8 }}
    - expression: >-
        size(variables.audiences) <= {{ $i }} || variables.renewing ||
        authorizer.group('podtoken.dev').resource('audiences').namespace(request.namespace)
        .name(variables.audiences[{{ $i }}]).check('mint').allowed()
      messageExpression: >-
        'podtoken: ' + variables.account + ' may not mint tokens for audience "' + variables.audiences[{{ $i }}] + '": it may for '
        + 'the audiences that its pods declare (annotation podtoken.dev/audience) and the policy allows'
      reason: Forbidden
    {{- end }}
  auditAnnotations:
    - key: audiences
      valueExpression: variables.audiences.join(', ')
    - key: lifetime
      valueExpression: string(variables.seconds)
    - key: pod
      valueExpression: request.namespace + '/' + variables.podName
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  {{- with .labels }}
  labels:
    {{- . | nindent 4 }}
  # Grants are not of the release, and would stay without it. So Helm never deletes it, whatever it does; cleanup-hook.yaml does.
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny, Audit]
{{- end -}}
