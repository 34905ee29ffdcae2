{{- define "ultramarine.labels" -}}
app.kubernetes.io/name: ultramarine
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ultramarine.image" -}}
{{- if not .image.repository }}
{{- fail "images: a repository is missing. Set images.operator.repository, images.trainer.repository and images.server.repository, with gateway.enabled images.gateway.repository, and without storage.endpoint images.storage.repository: use the values file of a release, or build, push and install by `make install CONTEXT=... REGISTRY=...`" }}
{{- end }}
{{- .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- /* The `pods` values of a component, as JSON: its own fields, and the common ones. */ -}}
{{- define "ultramarine.pod" -}}
{{- $pod := dict }}
{{- $own := get .root.Values.pods .component }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "annotations" "labels" "extraEnv" }}
{{- $_ := set $pod $field (hasKey $own $field | ternary (get $own $field) (get $.root.Values.pods $field)) }}
{{- end }}
{{- $pod | toJson }}
{{- end }}

{{- define "ultramarine.podMetadata" -}}
{{- $pod := include "ultramarine.pod" . | fromJson -}}
labels:
  app.kubernetes.io/component: {{ .as | default .component }}
  {{- include "ultramarine.labels" .root | nindent 2 }}
  {{- with $pod.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (.annotations | default dict) $pod.annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ultramarine.placement" -}}
{{- $pod := include "ultramarine.pod" . | fromJson }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $pod $field }}
{{ $field }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- $own := dict "labelSelector" (dict "matchLabels" (dict "app.kubernetes.io/name" "ultramarine" "app.kubernetes.io/component" .component)) }}
{{- with $pod.topologySpreadConstraints | default .spread }}
topologySpreadConstraints:
{{- range . }}
- {{- merge . (hasKey . "labelSelector" | ternary dict $own) | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* More variables of a component; with `outside` also those for hosts outside the cluster, which its own override. */ -}}
{{- define "ultramarine.env" -}}
{{- $own := (include "ultramarine.pod" . | fromJson).extraEnv }}
{{- $names := list }}
{{- range $own }}
{{- $names = append $names .name }}
{{- end }}
{{- range .outside | ternary (include "ultramarine.outsideEnv" .root) "[]" | fromJsonArray }}
{{- if not (has .name $names) }}
- {{ toJson . }}
{{- end }}
{{- end }}
{{- with $own }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Proxies, and the file of private authorities, for clients of hosts outside the cluster. */ -}}
{{- define "ultramarine.outsideEnv" -}}
{{- $env := list }}
{{- $proxy := .Values.proxy }}
{{- if or $proxy.https $proxy.http }}
{{- with $proxy.https }}
{{- $env = append $env (dict "name" "HTTPS_PROXY" "value" .) }}
{{- end }}
{{- with $proxy.http }}
{{- $env = append $env (dict "name" "HTTP_PROXY" "value" .) }}
{{- end }}
{{- $inside := list "localhost" "127.0.0.1" "::1" ".svc" ".cluster.local" "kubernetes.default" "$(KUBERNETES_SERVICE_HOST)" }}
{{- $env = append $env (dict "name" "NO_PROXY" "value" (concat $inside $proxy.noProxy | join ",")) }}
{{- end }}
{{- if include "ultramarine.ca" . | fromJson }}
{{- range list "SSL_CERT_FILE" "AWS_CA_BUNDLE" "REQUESTS_CA_BUNDLE" }}
{{- $env = append $env (dict "name" . "value" "/etc/ultramarine/ca/ca.crt") }}
{{- end }}
{{- end }}
{{- $env | toJson }}
{{- end }}

{{- /* The source of a volume with private authorities; empty without them. */ -}}
{{- define "ultramarine.ca" -}}
{{- include "ultramarine.caOf" (dict "ca" .Values.ca "field" "ca") }}
{{- end }}

{{- define "ultramarine.caOf" -}}
{{- $items := list (dict "key" .ca.key "path" "ca.crt") }}
{{- if and .ca.configMap .ca.secret }}
{{- fail (printf "%s: give configMap or secret, not both" .field) }}
{{- else if .ca.configMap }}
{{- dict "configMap" (dict "name" .ca.configMap "items" $items) | toJson }}
{{- else if .ca.secret }}
{{- dict "secret" (dict "secretName" .ca.secret "items" $items) | toJson }}
{{- else -}}
{}
{{- end }}
{{- end }}

{{- define "ultramarine.caVolume" -}}
{{- with include "ultramarine.ca" . | fromJson }}
- {{ merge (dict "name" "ca") . | toJson }}
{{- end }}
{{- end }}

{{- define "ultramarine.caMount" -}}
{{- if include "ultramarine.ca" . | fromJson }}
- {name: ca, mountPath: /etc/ultramarine/ca, readOnly: true}
{{- end }}
{{- end }}

{{- /* Settings of the operator, as settings.py of the operator reads them. */ -}}
{{- define "ultramarine.settings" -}}
{{- $images := .Values.images }}
{{- $settings := dict "namespaces" (ternary (list "*") (include "ultramarine.namespaces" . | fromJsonArray) .Values.clusterWide) }}
{{- $_ := set $settings "tls" .Values.tls.internal.enabled }}
{{- $_ := set $settings "requester" (eq (include "ultramarine.knowsRequester" .) "true") }}
{{- $_ := set $settings "images" (dict "trainer" (include "ultramarine.image" (dict "image" $images.trainer "root" $)) "server" (include "ultramarine.image" (dict "image" $images.server "root" $)) "pullPolicy" $images.pullPolicy "pullSecrets" $images.pullSecrets) }}
{{- $_ := set $settings "storage" (dict "endpoint" (include "ultramarine.storageEndpoint" .) "region" .Values.storage.region "bucket" .Values.storage.bucket "secretName" .Values.storage.secretName "confined" (not .Values.storage.endpoint)) }}
{{- range $what := list "training" "serving" }}
{{- $_ := set $settings $what (pick (get $.Values $what) "ephemeralStorage" "nodeSelector" "tolerations") }}
{{- end }}
{{- $_ := set $settings "outside" (dict "env" (include "ultramarine.outsideEnv" . | fromJsonArray) "ca" (include "ultramarine.ca" . | fromJson)) }}
{{- $builds := pick .Values.environments "indexUrl" "extraIndexUrls" "secretName" "unusedDays" "maxSize" "resources" }}
{{- $ca := include "ultramarine.caOf" (dict "ca" .Values.environments.ca "field" "environments.ca") | fromJson }}
{{- if .Values.environments.ca.configMap }}
{{- $_ := set $builds "authorities" "/etc/ultramarine/index-ca/ca.crt" }}
{{- else }}
{{- $_ := set $builds "ca" $ca }}
{{- end }}
{{- $_ := set $builds "unusedDays" (int $builds.unusedDays) }}
{{- $_ := set $settings "environments" $builds }}
{{- $_ := set $settings "records" .Values.records }}
{{- if .Values.progress.enabled }}
{{- $_ := set $settings "progress" (dict "url" (printf "%s://ultramarine-operator.%s.svc:8080" (include "ultramarine.scheme" .) .Release.Namespace)) }}
{{- end }}
{{- if .Values.gateway.enabled }}
{{- $_ := set $settings "gateway" (dict "address" (print (ternary "https://" "" .Values.tls.internal.enabled) "ultramarine-gateway.{namespace}.svc:9902") "namespaces" (include "ultramarine.gateways" . | fromJsonArray)) }}
{{- end }}
{{- if .Values.gatewayApi.parentRefs }}
{{- $_ := set $settings "gatewayApi" .Values.gatewayApi }}
{{- end }}
{{- with include "ultramarine.mlflowUri" . }}
{{- $_ := set $settings "mlflow" (dict "uri" . "secretName" $.Values.mlflow.secretName) }}
{{- end }}
{{- toYaml $settings }}
{{- end }}

{{- define "ultramarine.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The secrets of an embedded server's accounts, base64: those of its Secret, and new ones, made once a rendering. */ -}}
{{- define "ultramarine.accountsOf" -}}
{{- if not (hasKey .root.Values .secret) }}
{{- $known := ((lookup "v1" "Secret" .root.Release.Namespace .secret) | default dict).data | default dict }}
{{- $names := concat .names (keys $known | sortAlpha) }}
{{- range include "ultramarine.namespaces" .root | fromJsonArray }}
{{- $names = append $names (printf "namespace-%s" .) }}
{{- end }}
{{- $accounts := dict }}
{{- range $names | uniq }}
{{- $_ := set $accounts . (get $known . | default (randAlphaNum 40 | b64enc)) }}
{{- end }}
{{- $_ := set .root.Values .secret $accounts }}
{{- end }}
{{- get .root.Values .secret | toJson }}
{{- end }}

{{- define "ultramarine.accounts" -}}
{{- include "ultramarine.accountsOf" (dict "root" . "secret" "ultramarine-storage-accounts" "names" (list "root" "operator")) }}
{{- end }}

{{- /* The namespaces of the operator: the release's own, and the listed ones that exist. */ -}}
{{- define "ultramarine.namespaces" -}}
{{ (include "ultramarine.seen" . | fromJson).namespaces | toJson }}
{{- end }}

{{- /* The namespaces with an account of the embedded storage, which a namespace keeps when it leaves the list. */ -}}
{{- define "ultramarine.storageClients" -}}
{{- $clients := include "ultramarine.namespaces" . | fromJsonArray }}
{{- if .Values.storage.embedded.generateKeys }}
{{- range keys (include "ultramarine.accounts" . | fromJson) | sortAlpha }}
{{- if hasPrefix "namespace-" . }}
{{- $clients = append $clients (trimPrefix "namespace-" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $clients | uniq | toJson }}
{{- end }}

{{- /* The listed namespaces, read from the cluster once a rendering: `namespaces` with the release's own, the missing
ones (`gone`), and those that this upgrade takes off the list (`left`). Without access to the cluster all count as existing. */ -}}
{{- define "ultramarine.seen" -}}
{{- if not (hasKey .Values "seen") }}
{{- $listed := without (uniq .Values.namespaces) .Release.Namespace }}
{{- $operator := lookup "apps/v1" "Deployment" .Release.Namespace "ultramarine-operator" | default dict }}
{{- $before := dig "metadata" "annotations" "ultramarine.dev/listed" "*" $operator | splitList "," }}
{{- $there := list }}
{{- range $listed }}
{{- $found := lookup "v1" "Namespace" "" . }}
{{- if and $found (not $found.metadata.deletionTimestamp) }}
{{- $there = append $there . }}
{{- end }}
{{- end }}
{{- if and $listed (not (or $operator $there)) }}
{{- if not (lookup "v1" "Namespace" "" "default") }}
{{- $there = $listed }}
{{- end }}
{{- end }}
{{- $gone := list }}
{{- range $listed }}
{{- if not (has . $there) }}
{{- if not (and $operator (or (has . $before) (has "*" $before))) }}
{{- fail (printf "namespaces: %[1]s does not exist: create it first (kubectl create namespace %[1]s), or take it off the list" .) }}
{{- end }}
{{- $gone = append $gone . }}
{{- end }}
{{- end }}
{{- $left := list }}
{{- range without $before "*" "" .Release.Namespace }}
{{- if not (has . $listed) }}
{{- $left = append $left . }}
{{- end }}
{{- end }}
{{- $_ := set .Values "seen" (dict "namespaces" (prepend $there .Release.Namespace) "gone" $gone "left" $left) }}
{{- end }}
{{- .Values.seen | toJson }}
{{- end }}

{{- /* The namespaces with a gateway. With clusterWide, a namespace that leaves the list keeps its gateway. */ -}}
{{- define "ultramarine.gateways" -}}
{{- $namespaces := include "ultramarine.namespaces" . | fromJsonArray }}
{{- if .Values.clusterWide }}
{{- range (lookup "apps/v1" "Deployment" "" "").items }}
{{- if and (eq .metadata.name "ultramarine-gateway") (eq (get .metadata.labels "app.kubernetes.io/instance") $.Release.Name) }}
{{- $namespaces = append $namespaces .metadata.namespace }}
{{- end }}
{{- end }}
{{- end }}
{{- $namespaces | uniq | toJson }}
{{- end }}

{{- /* A peer's namespaceSelector: these `values`, a list as JSON, or the whole cluster. */ -}}
{{- define "ultramarine.lookedAfter" -}}
{{- if .root.Values.clusterWide -}}
namespaceSelector: {}
{{- else -}}
namespaceSelector:
  matchExpressions:
  - {key: kubernetes.io/metadata.name, operator: In, values: {{ .values }}}
{{- end }}
{{- end }}

{{- define "ultramarine.scheme" -}}
{{ ternary "https" "http" .Values.tls.internal.enabled }}
{{- end }}

{{- /* The certificates: their names and their Secrets. Without a gateway, clients of serving pods use the names of
endpoints' Services. */ -}}
{{- define "ultramarine.certificates" -}}
{{- $root := . }}
{{- $made := list }}
{{- $platform := ternary (list "operator") (list "operator" "storage") (not (empty .Values.storage.endpoint)) }}
{{- range $namespace := include "ultramarine.namespaces" . | fromJsonArray }}
{{- range $component := concat (ternary $platform list (eq $namespace $root.Release.Namespace)) (list "gateway" "server" "sweep") }}
{{- $name := printf "ultramarine-%s" $component }}
{{- $names := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace) }}
{{- if eq $component "storage" }}
{{- $names = append $names "localhost" }}{{- /* kubectl port-forward */}}
{{- end }}
{{- if and (eq $component "server") (not $root.Values.gateway.enabled) }}
{{- $names = concat $names (list (printf "*.%s.svc" $namespace) (printf "*.%s.svc.cluster.local" $namespace)) }}
{{- end }}
{{- $made = append $made (dict "secret" (printf "ultramarine-tls-%s" $component) "namespace" $namespace "names" $names) }}
{{- end }}
{{- end }}
{{- $made | toJson }}
{{- end }}

{{- /* The chart's own authority, as its Secret has it: that of the cluster, or a new one, made once a rendering. */ -}}
{{- define "ultramarine.authority" -}}
{{- if not (hasKey .Values "authority") }}
{{- $data := ((lookup "v1" "Secret" .Release.Namespace "ultramarine-ca") | default dict).data }}
{{- if not $data }}
{{- $made := genCAWithKey (printf "ultramarine %s" .Release.Namespace) 3650 (genPrivateKey "ecdsa") }}
{{- $data = dict "tls.crt" ($made.Cert | b64enc) "tls.key" ($made.Key | b64enc) }}
{{- end }}
{{- $_ := set .Values "authority" $data }}
{{- end }}
{{- .Values.authority | toJson }}
{{- end }}

{{- /* The authorities by which clients check the storage's certificate, as PEM; empty if those of the system do. An issuer's
authority is known at the first upgrade after it has made the certificate. */ -}}
{{- define "ultramarine.storageAuthority" -}}
{{- $tls := and .Values.tls.internal.enabled (not .Values.storage.endpoint) }}
{{- if and $tls .Values.tls.internal.issuerRef }}
{{- dig "data" "ca.crt" "" (lookup "v1" "Secret" .Release.Namespace "ultramarine-tls-storage") | b64dec }}
{{- else if $tls }}
{{- get (include "ultramarine.authority" . | fromJson) "tls.crt" | b64dec }}
{{- else if and .Values.storage.endpoint .Values.ca.configMap }}
{{- get (dig "data" dict (lookup "v1" "ConfigMap" .Release.Namespace .Values.ca.configMap)) .Values.ca.key }}
{{- end }}
{{- end }}

{{- /* Volume and mount of a certificate's Secret, and the scheme of probes. */ -}}
{{- define "ultramarine.tlsVolume" -}}
{{- if .root.Values.tls.internal.enabled }}
- name: tls
  secret: {secretName: ultramarine-tls-{{ .component }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "ultramarine.tlsMount" -}}
{{- if .Values.tls.internal.enabled }}
- {name: tls, mountPath: /etc/ultramarine/tls, readOnly: true}   # renewals need no restart
{{- end }}
{{- end }}

{{- define "ultramarine.probeScheme" -}}
{{- if .Values.tls.internal.enabled }}, scheme: HTTPS{{ end }}
{{- end }}

{{- /* The scheme and server name for Prometheus, by the short name, which is equal in all namespaces. */ -}}
{{- define "ultramarine.scrapeTls" -}}
{{- if .root.Values.tls.internal.enabled -}}
, scheme: https, tlsConfig: {serverName: ultramarine-{{ .component }}, ca: {secret: {name: ultramarine-tls-operator, key: ca.crt}}}
{{- end }}
{{- end }}

{{- define "ultramarine.storageEndpoint" -}}
{{ .Values.storage.endpoint | default (printf "%s://ultramarine-storage.%s.svc:7070" (include "ultramarine.scheme" .) .Release.Namespace) }}
{{- end }}

{{- /* The PriorityClass of the platform's own pods, or empty. Each release has a separate one, so that no release removes another's. */ -}}
{{- define "ultramarine.priorityClass" -}}
{{- .Values.priorityClass.name | default (ternary (printf "ultramarine-platform-%s" .Release.Namespace) "" .Values.priorityClass.create) -}}
{{- end }}

{{- /* The tracking server, or empty. */ -}}
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

{{- define "ultramarine.portOf" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end }}

{{- /* An egress rule for a server outside, by its URL. */ -}}
{{- define "ultramarine.egressTo" -}}
- ports:
  - {port: {{ include "ultramarine.portOf" . }}, protocol: TCP}
  to:
  - ipBlock:
      cidr: 0.0.0.0/0
      except: [169.254.0.0/16, 168.63.129.16/32, 100.100.100.200/32]   # metadata servers of clouds, which hand out the node's own keys
{{- end }}

{{- /* An egress rule for a package index: for its address, or else for all but private addresses and metadata servers. */ -}}
{{- define "ultramarine.egressToIndex" -}}
{{- $address := regexFind "^([0-9]{1,3}[.]){3}[0-9]{1,3}(:|$)" (urlParse .).host | trimSuffix ":" -}}
- ports:
  - {port: {{ include "ultramarine.portOf" . }}, protocol: TCP}
  to:
  - ipBlock:
  {{- if $address }}
      cidr: {{ $address }}/32
  {{- else }}
      cidr: 0.0.0.0/0
      except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 169.254.0.0/16, 168.63.129.16/32]
  {{- end }}
{{- end }}

{{- /* Egress rules of pods that install packages. */ -}}
{{- define "ultramarine.egressToIndexes" -}}
{{- if .Values.environments.egress }}
{{- toYaml .Values.environments.egress }}
{{- else }}
{{- $rules := list }}
{{- range concat (list "https://any" "http://any" .Values.environments.indexUrl) .Values.environments.extraIndexUrls | compact }}
{{- $rules = append $rules (include "ultramarine.egressToIndex" .) }}
{{- end }}
{{- $rules | uniq | join "\n" }}
{{- end }}
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
{{- range list .Values.proxy.https .Values.proxy.http | compact | uniq }}
{{ include "ultramarine.egressTo" . }}
{{- end }}
{{- with .Values.networkPolicies.egress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* True if the API server records who made an object; only then is the annotation trusted. */}}
{{- define "ultramarine.knowsRequester" -}}
{{- $can := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
{{- $name := "requested-by-create.ultramarine.dev" -}}
{{- and $can (or .Values.crds.install (not (empty (lookup "admissionregistration.k8s.io/v1" "MutatingAdmissionPolicy" "" $name)))) -}}
{{- end }}
