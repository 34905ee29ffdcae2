{{- define "ultramarine.labels" -}}
app.kubernetes.io/name: ultramarine
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ultramarine.image" -}}
{{- if not .image.repository }}
{{- fail "images.operator.repository, images.trainer.repository, images.server.repository and, with gateway.enabled, images.gateway.repository and, without storage.endpoint, images.storage.repository have to be set: no images are published yet; `make install CONTEXT=... REGISTRY=...` builds, pushes and installs them" }}
{{- end }}
{{- .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "ultramarine.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The secrets of the embedded storage's accounts, base64: those that are there, and new ones made once a rendering. */ -}}
{{- define "ultramarine.accounts" -}}
{{- if not .Values.storage.embedded.accounts }}
{{- $known := ((lookup "v1" "Secret" .Release.Namespace "ultramarine-storage-accounts") | default dict).data | default dict }}
{{- $names := list "root" "operator" }}
{{- range include "ultramarine.namespaces" . | fromJsonArray }}
{{- $names = append $names (printf "namespace-%s" .) }}
{{- end }}
{{- $accounts := dict }}
{{- range $names }}
{{- $_ := set $accounts . (get $known . | default (randAlphaNum 40 | b64enc)) }}
{{- end }}
{{- $_ := set .Values.storage.embedded "accounts" $accounts }}
{{- end }}
{{- .Values.storage.embedded.accounts | toJson }}
{{- end }}

{{- /* Those that the operator looks after: the release's own, and those listed. */ -}}
{{- define "ultramarine.namespaces" -}}
{{ prepend .Values.namespaces .Release.Namespace | uniq | toJson }}
{{- end }}

{{- /* A peer's namespaceSelector: where the operator looks after objects. */ -}}
{{- define "ultramarine.lookedAfter" -}}
{{- if .Values.clusterWide -}}
namespaceSelector: {}
{{- else -}}
namespaceSelector:
  matchExpressions:
  - {key: kubernetes.io/metadata.name, operator: In, values: {{ include "ultramarine.namespaces" . }}}
{{- end }}
{{- end }}

{{- define "ultramarine.scheme" -}}
{{ ternary "https" "http" .Values.tls.internal.enabled }}
{{- end }}

{{- /* The certificates: what each proves, and the Secrets that they lie in. Where no gateway stands before the pods that
serve, their clients ask for the Services of endpoints. */ -}}
{{- define "ultramarine.certificates" -}}
{{- $root := . }}
{{- $made := list }}
{{- $platform := ternary (list "operator") (list "operator" "storage") (not (empty .Values.storage.endpoint)) }}
{{- range $namespace := include "ultramarine.namespaces" . | fromJsonArray }}
{{- range $component := concat (ternary $platform list (eq $namespace $root.Release.Namespace)) (list "gateway" "server" "sweep") }}
{{- $name := printf "ultramarine-%s" $component }}
{{- $names := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace) }}
{{- if and (eq $component "server") (not $root.Values.gateway.enabled) }}
{{- $names = concat $names (list (printf "*.%s.svc" $namespace) (printf "*.%s.svc.cluster.local" $namespace)) }}
{{- end }}
{{- $made = append $made (dict "secret" (printf "ultramarine-tls-%s" $component) "namespace" $namespace "names" $names) }}
{{- end }}
{{- end }}
{{- $made | toJson }}
{{- end }}

{{- /* Volume and mount of the Secret of one of them, and the scheme of its probes. */ -}}
{{- define "ultramarine.tlsVolume" -}}
{{- if .root.Values.tls.internal.enabled }}
- name: tls
  secret: {secretName: ultramarine-tls-{{ .component }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "ultramarine.tlsMount" -}}
{{- if .Values.tls.internal.enabled }}
- {name: tls, mountPath: /etc/ultramarine/tls, readOnly: true}   # what is renewed there counts without a restart
{{- end }}
{{- end }}

{{- define "ultramarine.probeScheme" -}}
{{- if .Values.tls.internal.enabled }}, scheme: HTTPS{{ end }}
{{- end }}

{{- /* How Prometheus knows one of them, in whichever namespace, by its short name. */ -}}
{{- define "ultramarine.scrapeTls" -}}
{{- if .root.Values.tls.internal.enabled -}}
, scheme: https, tlsConfig: {serverName: ultramarine-{{ .component }}, ca: {secret: {name: ultramarine-tls-operator, key: ca.crt}}}
{{- end }}
{{- end }}

{{- define "ultramarine.storageEndpoint" -}}
{{ .Values.storage.endpoint | default (printf "%s://ultramarine-storage.%s.svc:7070" (include "ultramarine.scheme" .) .Release.Namespace) }}
{{- end }}

{{- /* The PriorityClass of the platform's own pods, or nothing. Each release has its own, so that none takes another's away. */ -}}
{{- define "ultramarine.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary (printf "ultramarine-platform-%s" .Release.Namespace) "" .Values.priorityClass.create) -}}
{{- end }}

{{- /* The tracking server, or nothing. */ -}}
{{- define "ultramarine.mlflowUri" -}}
{{- .Values.mlflow.trackingUri | default (ternary (printf "http://ultramarine-mlflow.%s.svc:5000" .Release.Namespace) "" .Values.mlflow.embedded.enabled) -}}
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

{{- /* The way to a server elsewhere, by its URL. */ -}}
{{- define "ultramarine.egressTo" -}}
{{- $url := urlParse . -}}
- ports:
  - {port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) }}, protocol: TCP}
  to:
  - ipBlock:
      cidr: 0.0.0.0/0
      except: [169.254.0.0/16, 168.63.129.16/32, 100.100.100.200/32]   # where clouds give pods the node's own keys
{{- end }}

{{- define "ultramarine.egressToMlflow" -}}
{{- if .Values.mlflow.trackingUri -}}
{{- include "ultramarine.egressTo" .Values.mlflow.trackingUri }}
{{- else if .Values.mlflow.embedded.enabled -}}
- ports:
  - {port: 5000, protocol: TCP}
  to:
  - podSelector:
      matchLabels: {app.kubernetes.io/name: ultramarine, app.kubernetes.io/component: mlflow}
    namespaceSelector:
      matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
{{- end }}
{{- end }}

{{- define "ultramarine.egress" -}}
- ports:   # DNS, to any address: many clusters have a cache for it on each node
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
{{- if .Values.storage.endpoint }}
{{ include "ultramarine.egressTo" .Values.storage.endpoint }}
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

{{- /* Whether the API server writes down who made an object: only where it does is the annotation to be believed. */}}
{{- define "ultramarine.knowsRequester" -}}
{{- $can := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
{{- $name := "requested-by-create.ultramarine.dev" -}}
{{- and $can (or .Values.crds.install (not (empty (lookup "admissionregistration.k8s.io/v1" "MutatingAdmissionPolicy" "" $name)))) -}}
{{- end }}
