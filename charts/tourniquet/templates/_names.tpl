{{- define "tourniquet.labels" -}}
app.kubernetes.io/name: tourniquet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "tourniquet.selector" -}}
app.kubernetes.io/name: tourniquet
app.kubernetes.io/component: operator
{{- end -}}

{{/* Whoever uninstalls or prunes leaves this one: Helm, Argo CD, Flux. */}}
{{- define "tourniquet.keep" -}}
helm.sh/resource-policy: keep
argocd.argoproj.io/sync-options: Prune=false,Delete=false
kustomize.toolkit.fluxcd.io/prune: disabled
{{- end -}}

{{/* The powers that are off, with commas. One that the values do not name, those of an earlier chart, is on. */}}
{{- define "tourniquet.powersOff" -}}
{{- $off := list }}
{{- range $power, $on := .Values.powers }}
{{- if not $on }}{{ $off = append $off $power }}{{ end }}
{{- end }}
{{- join "," $off }}
{{- end -}}
