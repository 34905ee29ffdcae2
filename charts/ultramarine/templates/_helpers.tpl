{{- define "ultramarine.labels" -}}
app.kubernetes.io/name: ultramarine
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ultramarine.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "ultramarine.namespaces" -}}
{{ .Values.namespaces | default (list .Release.Namespace) | toJson }}
{{- end }}

{{- define "ultramarine.storageEndpoint" -}}
{{ .Values.storage.endpoint | default (printf "http://ultramarine-storage.%s.svc:7070" .Release.Namespace) }}
{{- end }}

{{- define "ultramarine.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ultramarine.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "ultramarine.egress" -}}
- ports:   # DNS, to any address: many clusters have a cache for it on each node
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
{{- if .Values.storage.endpoint }}
{{- $url := urlParse .Values.storage.endpoint }}
- ports:
  - {port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) }}, protocol: TCP}
  to:
  - ipBlock:
      cidr: 0.0.0.0/0
      except: [169.254.169.254/32]   # where clouds give each pod the node's own keys
{{- else }}
- ports:
  - {port: 7070, protocol: TCP}
  to:
  - podSelector:
      matchLabels: {app.kubernetes.io/name: ultramarine, app.kubernetes.io/component: storage}
    namespaceSelector:
      matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
{{- end }}
{{- with .Values.networkPolicies.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}
