{{/* The beginning of all names. Forty characters leave room for what is put behind. */}}
{{- define "ashlar.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- end -}}
{{- if gt (len $name) 40 -}}
{{- $name = printf "%s-%s" (trunc 31 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The injector's objects of the cluster: releases of two namespaces may have one name. */}}
{{- define "ashlar.clusterName" -}}
{{ include "ashlar.fullname" . }}-injector.{{ .Release.Namespace }}
{{- end -}}

{{- define "ashlar.selector" -}}
app.kubernetes.io/name: ashlar
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Over nodes and zones, as far as there are any. */}}
{{- define "ashlar.spread" -}}
{{- $part := . -}}
{{- range $i, $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
{{- if $i }}
{{ end -}}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "ashlar.selector" $part | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Of pods: nothing that another release alone would change and so replace them. */}}
{{- define "ashlar.podLabels" -}}
{{ include "ashlar.selector" . }}
app.kubernetes.io/part-of: ashlar
{{- end -}}

{{- define "ashlar.labels" -}}
{{ include "ashlar.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The reference of an image: registry, repository, and digest or tag. */}}
{{- define "ashlar.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default (default .root.Chart.AppVersion .root.Values.image.tag) .image.tag }}{{ end -}}
{{- end -}}

{{- define "ashlar.pullSecrets" -}}
{{- range $i, $name := .Values.image.pullSecrets }}
{{- if $i }}
{{ end -}}
- name: {{ $name | quote }}
{{- end -}}
{{- end -}}

{{/* inject.Settings, and what the injector is told besides. */}}
{{- define "ashlar.settings" -}}
{{- $full := include "ashlar.fullname" . -}}
{{- dict
  "coordinator" (printf "%s-mesh.%s.svc:2001" $full .Release.Namespace)
  "client" (printf "%s.%s.svc:4433" $full .Release.Namespace)
  "service" (printf "%s-injector.%s.svc" $full .Release.Namespace)
  "webhook" (include "ashlar.clusterName" .)
  "policy" .Values.policy
  "image" (include "ashlar.image" (dict "root" . "image" .Values.marble.image))
  "pullPolicy" .Values.image.pullPolicy
  "profiles" .Values.tee.profiles
  "defaults" .Values.tee.defaults
  "readinessGate" .Values.marble.readinessGate
  "readyPort" .Values.marble.readyPort
| toPrettyJson -}}
{{- end -}}

{{/* The ports of addresses such as etcd-0:2379, a JSON array. */}}
{{- define "ashlar.endpointPorts" -}}
{{- $ports := list -}}
{{- range . }}{{ $ports = append $ports (regexFind "[0-9]+$" . | int) }}{{ end -}}
{{- toJson ($ports | uniq) -}}
{{- end -}}

{{/* The ports of addresses such as https://pccs.example:8081, a JSON array. */}}
{{- define "ashlar.ports" -}}
{{- $ports := list -}}
{{- range . -}}
{{- $url := urlParse . -}}
{{- $named := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
{{- $ports = append $ports (default (ternary 80 443 (eq $url.scheme "http") | toString) $named | int) -}}
{{- end -}}
{{- toJson ($ports | uniq) -}}
{{- end -}}
