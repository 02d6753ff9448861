{{- define "keyway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "keyway.selector" -}}
app.kubernetes.io/name: keyway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keyway.labels" -}}
{{ include "keyway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "keyway.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "keyway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* The name of what has no namespace, where releases of several namespaces meet. */ -}}
{{- define "keyway.globalname" -}}
{{- printf "%s-%s" .Release.Namespace (include "keyway.fullname" .) -}}
{{- end -}}

{{- define "keyway.admission" -}}
{{- if and .Values.kubernetes.enabled .Values.admission.enabled -}}
{{- printf "%s-admission" (include "keyway.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "keyway.admissionSecret" -}}
{{- default (include "keyway.admission" .) .Values.admission.secretName -}}
{{- end -}}

{{- /* Documents by file name, that of the webhook's certificate among them. */ -}}
{{- define "keyway.documents" -}}
{{- with .Values.documents }}
{{- toYaml . }}
{{- end }}
{{- if include "keyway.admission" . }}
keyway-admission.yaml: |
  _format_version: "3.0"
  vaults:
  - {name: kube, prefix: keyway-admission, config: {namespace: {{ .Release.Namespace }}}}
  certificates:
  - cert: "{vault://keyway-admission/{{ include "keyway.admissionSecret" . }}/tls.crt}"
    key: "{vault://keyway-admission/{{ include "keyway.admissionSecret" . }}/tls.key}"
    snis: [{{ include "keyway.admission" . }}.{{ .Release.Namespace }}.svc]
{{- end }}
{{- end -}}

{{- define "keyway.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* The Service whose addresses the status says: it can be read only where its namespace is watched. */ -}}
{{- define "keyway.publishService" -}}
{{- $v := .Values.kubernetes -}}
{{- if $v.publishService -}}
{{- $v.publishService -}}
{{- else if or (not $v.watchNamespaces) (has .Release.Namespace $v.watchNamespaces) -}}
{{- printf "%s/%s" .Release.Namespace (include "keyway.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- /* A selector of labels as Kubernetes has it in objects, as text. */ -}}
{{- define "keyway.labelText" -}}
{{- $terms := list -}}
{{- range $key, $value := .matchLabels -}}{{- $terms = append $terms (printf "%s=%s" $key $value) -}}{{- end -}}
{{- range .matchExpressions -}}
{{- if eq .operator "Exists" -}}{{- $terms = append $terms .key -}}
{{- else if eq .operator "DoesNotExist" -}}{{- $terms = append $terms (printf "!%s" .key) -}}
{{- else -}}{{- $terms = append $terms (printf "%s %s (%s)" .key (lower .operator) (join "," .values)) -}}
{{- end -}}
{{- end -}}
{{- join "," $terms -}}
{{- end -}}

{{- /* The Lease of the replica that writes. Releases that take other objects of the class have another. */ -}}
{{- define "keyway.lease" -}}
{{- $v := .Values.kubernetes -}}
{{- $taken := printf "%s\n%s\n%s" (join "," (sortAlpha $v.watchNamespaces)) (include "keyway.labelText" $v.labelSelector) (include "keyway.labelText" $v.namespaceSelector) -}}
{{- printf "keyway-%s" .Values.ingressClass.name -}}
{{- if trim $taken -}}{{- printf "-%s" ($taken | sha256sum | trunc 8) -}}{{- end -}}
{{- end -}}

{{- /* The values that make settings, by setting. */ -}}
{{- define "keyway.made" -}}
admission_tls_listen: admission.containerPort
data_dir: data.volume
development: documents
documents: documents
grace: drain.graceSeconds
http3: https.http3
kube_config_map_selector: kubernetes.configMapSelector
kube_context: serviceAccount
kube_controllers: kubernetes.controllers
kube_ingress_class: ingressClass.name
kube_kubeconfig: serviceAccount
kube_label_selector: kubernetes.labelSelector
kube_namespace_selector: kubernetes.namespaceSelector
kube_namespaces: kubernetes.watchNamespaces
kube_publish_address: kubernetes.publishAddresses
kube_publish_service: kubernetes.publishService
kube_secret_selector: kubernetes.secretSelector
kubernetes: kubernetes.enabled
port_maps: http.port and https.port
proxy_listen: http.containerPort
proxy_tls_listen: https.containerPort
status_listen: status.containerPort
stream_listen: streams
{{- end -}}

{{- define "keyway.settings" -}}
{{- $s := deepCopy .Values.settings -}}
{{- range $key, $value := include "keyway.made" . | fromYaml -}}
{{- if hasKey $s $key -}}{{- fail (printf "settings.%s: expected nothing; %s makes it" $key $value) -}}{{- end -}}
{{- end -}}
{{- $_ := set $s "data_dir" "/var/lib/keyway/node" -}}
{{- $_ := set $s "proxy_listen" (ternary (printf ":%d" (int .Values.http.containerPort)) "off" .Values.http.enabled) -}}
{{- $_ := set $s "proxy_tls_listen" (ternary (printf ":%d" (int .Values.https.containerPort)) "off" .Values.https.enabled) -}}
{{- $_ := set $s "status_listen" (printf ":%d" (int .Values.status.containerPort)) -}}
{{- $_ := set $s "grace" (printf "%ds" (int .Values.drain.graceSeconds)) -}}
{{- $_ := set $s "development" "off" -}}
{{- $maps := list -}}
{{- range list .Values.http .Values.https -}}
{{- if and .enabled (ne (int .port) (int .containerPort)) -}}{{- $maps = append $maps (printf "%d:%d" (int .port) (int .containerPort)) -}}{{- end -}}
{{- end -}}
{{- with $maps -}}{{- $_ := set $s "port_maps" (join "," .) -}}{{- end -}}
{{- if and .Values.https.enabled .Values.https.http3 -}}
{{- $_ := set $s "http3" "all" -}}
{{- end -}}
{{- if .Values.streams -}}
{{- $list := list -}}
{{- range .Values.streams -}}
{{- $words := list (printf ":%d" (int .containerPort)) -}}
{{- if eq .protocol "tls" -}}{{- $words = append $words "ssl" -}}{{- end -}}
{{- if eq .protocol "udp" -}}{{- $words = append $words "udp" -}}{{- end -}}
{{- if .proxyProtocol -}}{{- $words = append $words "proxy_protocol" -}}{{- end -}}
{{- $list = append $list (join " " $words) -}}
{{- end -}}
{{- $_ := set $s "stream_listen" (join ", " $list) -}}
{{- end -}}
{{- if include "keyway.documents" . -}}
{{- $_ := set $s "documents" "/etc/keyway/documents" -}}
{{- end -}}
{{- with .Values.kubernetes -}}
{{- if .enabled -}}
{{- $_ := set $s "kubernetes" "on" -}}
{{- if $.Values.admission.enabled -}}
{{- $_ := set $s "admission_tls_listen" (printf ":%d" (int $.Values.admission.containerPort)) -}}
{{- end -}}
{{- $_ := set $s "kube_ingress_class" $.Values.ingressClass.name -}}
{{- $_ := set $s "kube_controllers" (join "," .controllers) -}}
{{- with .watchNamespaces -}}{{- $_ := set $s "kube_namespaces" (join "," .) -}}{{- end -}}
{{- if and .watchNamespaces .namespaceSelector -}}{{- fail "kubernetes.namespaceSelector: expected nothing beside kubernetes.watchNamespaces" -}}{{- end -}}
{{- range $key, $selector := dict "label" .labelSelector "namespace" .namespaceSelector "secret" .secretSelector "config_map" .configMapSelector -}}
{{- with include "keyway.labelText" $selector -}}{{- $_ := set $s (printf "kube_%s_selector" $key) . -}}{{- end -}}
{{- end -}}
{{- if .publishAddresses -}}
{{- $_ := set $s "kube_publish_address" (join "," .publishAddresses) -}}
{{- else -}}
{{- with include "keyway.publishService" $ -}}{{- $_ := set $s "kube_publish_service" . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $s -}}
{{- end -}}

{{- /* What of a namespace is read, and written as status. Verbs are those that the node uses. */ -}}
{{- define "keyway.rules.namespace" -}}
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [configuration.konghq.com]
  resources: [ingressclassparameterses, kongconsumergroups, kongconsumers, kongcustomentities, kongingresses, kongplugins, kongupstreampolicies, tcpingresses, udpingresses]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies, gateways, grpcroutes, httproutes, listenersets, referencegrants, tcproutes, tlsroutes, udproutes]
  verbs: [list, watch]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, watch]
# keyway certs renew
- apiGroups: [cert-manager.io]
  resources: [certificates/status]
  verbs: [patch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
- apiGroups: [configuration.konghq.com]
  resources: [kongconsumergroups/status, kongconsumers/status, kongcustomentities/status, kongplugins/status, kongupstreampolicies/status, tcpingresses/status, udpingresses/status]
  verbs: [patch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies/status, gateways/status, grpcroutes/status, httproutes/status, listenersets/status, tcproutes/status, tlsroutes/status, udproutes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}

{{- /* The same of what has no namespace. */ -}}
{{- define "keyway.rules.cluster" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [list, watch]
- apiGroups: [configuration.konghq.com]
  resources: [kongclusterplugins, kongvaults]
  verbs: [list, watch]
- apiGroups: [configuration.konghq.com]
  resources: [kongclusterplugins/status, kongvaults/status]
  verbs: [patch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gatewayclasses/status]
  verbs: [patch]
# Their labels: for kubernetes.namespaceSelector, and for which routes a listener lets in.
- apiGroups: [""]
  resources: [namespaces]
  {{- with .Values.kubernetes.watchNamespaces }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [list, watch]
{{- end -}}
