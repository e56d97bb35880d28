{{/* The binding of the policy of this name: in force everywhere, and whatever it refuses is denied. */}}
{{- define "tourniquet.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "tourniquet.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end -}}

{{/* Whether the requester has a synthetic verb where the response is. Kubernetes knows nothing of these verbs: RBAC grants them like any other, and
`kubectl auth can-i VERB incidentresponses` tells who has them. A check costs 350,000 of the 1,000,000 that an expression may cost
(apiserver/pkg/cel/library/cost.go): two at most in one expression, and none where something is repeated. */}}
{{- define "tourniquet.may" -}}
authorizer.group('tourniquet.dev').resource('incidentresponses').namespace(request.namespace).check('{{ . }}').allowed()
{{- end -}}

{{/* What somebody without that verb is told, in a CEL string: what needs it, and who has it. */}}
{{- define "tourniquet.mayNot" -}}
'{{ .what }} needs the verb {{ .verb }} on incidentresponses.tourniquet.dev in namespace ' + request.namespace + ': ask whoever administers the cluster for
{{- if has .verb (list "run" "override-protection") }} a role that has it there'{{ else }} a role that has it there, such as ClusterRole tourniquet-responder'{{ end }}
{{- end -}}

{{/* The right to change by hand what tourniquet left in the cluster. In the response namespace, wherever the object is: policies of Cilium are in none. */}}
{{- define "tourniquet.mayBreakGlass" -}}
authorizer.group('tourniquet.dev').resource('incidentresponses').namespace('{{ .Values.responseNamespace }}').check('override-protection').allowed()
{{- end -}}

{{- define "tourniquet.mayNotBreakGlass" -}}
to change it by hand takes the verb override-protection on incidentresponses.tourniquet.dev in namespace {{ .Values.responseNamespace }}
{{- end -}}

{{- define "tourniquet.operator" -}}
system:serviceaccount:{{ .Release.Namespace }}:tourniquet-operator
{{- end -}}

{{/* Who empties a namespace that is deleted, and collects what has no owner any more. Where the controllers share one identity, it is the last one. */}}
{{- define "tourniquet.collectors" -}}
['system:serviceaccount:kube-system:namespace-controller', 'system:serviceaccount:kube-system:generic-garbage-collector', 'system:kube-controller-manager']
{{- end -}}
