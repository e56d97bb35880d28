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
