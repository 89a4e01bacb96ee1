{{/* What the proxy's host reads, as the control plane writes it for gateways that it makes. */}}
{{- define "gateway.environment" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: INSTANCE_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: SERVICE_ACCOUNT
  valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}
- name: HOST_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
- name: ISTIO_META_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: ISTIO_CPU_LIMIT
  valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: "1"}}
- name: NODE_TYPE
  value: router
- name: XDS_ADDRESS
  value: {{ printf "istiod.%s.svc:15012" .Values.global.istioNamespace }}
- name: CA_ADDR
  value: {{ printf "istiod.%s.svc:15012" .Values.global.istioNamespace }}
- name: TRUST_DOMAIN
  value: {{ .Values.global.trustDomain }}
- name: CLUSTER_DOMAIN
  value: {{ .Values.global.proxy.clusterDomain }}
- name: TERMINATION_GRACE_PERIOD_SECONDS
  value: {{ .Values.terminationGracePeriodSeconds | quote }}
- name: ISTIO_META_CLUSTER_ID
  value: {{ .Values.global.multiCluster.clusterName }}
- name: ISTIO_META_INTERCEPTION_MODE
  value: REDIRECT
- name: ISTIO_META_WORKLOAD_NAME
  value: {{ include "gateway.name" . }}
- name: ISTIO_META_OWNER
  value: {{ printf "kubernetes://apis/apps/v1/namespaces/%s/deployments/%s" .Release.Namespace (include "gateway.name" .) }}
- name: ISTIO_META_MESH_ID
  value: {{ .Values.global.trustDomain }}
{{- range $name, $value := dict "LOG_LEVEL" "info" "LOG_FORMAT" "text" "PROXY_LOG_LEVEL" "warning" "PROXY_COMPONENT_LOG_LEVEL" "misc:error" }}
{{- if not (hasKey $.Values.env $name) }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
