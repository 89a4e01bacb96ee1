{{/* Labels of every object. Call with a list: root context, component. */}}
{{- define "culvert.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: culvert
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "culvert.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "culvert.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What every process reads from its environment. */}}
{{- define "culvert.environment" -}}
- name: LOG_LEVEL
  value: {{ .Values.log.level | quote }}
- name: LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: CLUSTER_ID
  value: {{ .Values.cluster.id | quote }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}

{{- define "culvert.controlPlaneAddress" -}}
{{ printf "istiod.%s.svc:15012" .Release.Namespace }}
{{- end }}

{{/* Proof of identity to the control plane, and what its certificate is checked against. The config map is written
by the control plane: until then a pod waits for it. */}}
{{- define "culvert.credentialMounts" -}}
- name: istio-token
  mountPath: /var/run/secrets/tokens
  readOnly: true
- name: istio-ca-root-cert
  mountPath: /var/run/secrets/istio
  readOnly: true
{{- end }}

{{- define "culvert.credentialVolumes" -}}
- name: istio-token
  projected:
    sources:
      - serviceAccountToken:
          path: istio-token
          audience: istio-ca
          expirationSeconds: 43200
- name: istio-ca-root-cert
  configMap:
    name: istio-ca-root-cert
{{- end }}

{{/* The folder of ZDS and SDS sockets that node agent and ztunnel share. */}}
{{- define "culvert.socketVolume" -}}
- name: ztunnel-sockets
  hostPath:
    path: /var/run/ztunnel
    type: DirectoryOrCreate
{{- end }}

{{/* Not empty where AppArmor is a field of the container; before 1.30 it was an annotation. */}}
{{- define "culvert.hasAppArmorField" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}yes{{ end }}
{{- end }}

{{/* Name of the configuration of gateway injection. */}}
{{- define "culvert.injector" -}}
istio-sidecar-injector{{ if ne .Release.Namespace "istio-system" }}-{{ .Release.Namespace }}{{ end }}
{{- end }}
