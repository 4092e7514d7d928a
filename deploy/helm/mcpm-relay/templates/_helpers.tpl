{{- define "mcpm-relay.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "mcpm-relay.labels" -}}
{{ include "mcpm-relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mcpm-relay.selector" -}}
app.kubernetes.io/name: mcpm-relay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
