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

{{/* Objects of the cluster carry the namespace too: releases of two namespaces may have one name. */}}
{{- define "ashlar.clusterName" -}}
{{ include "ashlar.fullname" . }}-injector.{{ .Release.Namespace }}
{{- end -}}

{{- define "ashlar.selector" -}}
app.kubernetes.io/name: ashlar
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "ashlar.labels" -}}
{{ include "ashlar.selector" . }}
app.kubernetes.io/part-of: ashlar
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Of pods: nothing that a release alone would change, so that it replaces no pod without need. */}}
{{- define "ashlar.podLabels" -}}
{{ include "ashlar.selector" . }}
app.kubernetes.io/part-of: ashlar
{{- end -}}

{{/* The reference of an image: registry, repository, and digest or tag. */}}
{{- define "ashlar.image" -}}
{{- $i := .image -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $i.repository }}
{{- if $i.digest }}@{{ $i.digest }}{{ else }}:{{ default (default .root.Chart.AppVersion .root.Values.image.tag) $i.tag }}{{ end -}}
{{- end -}}

{{- define "ashlar.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The coordinator's row of the table of profiles, as JSON; an empty object if none is named. */}}
{{- define "ashlar.coordinatorProfile" -}}
{{- $name := .Values.coordinator.profile -}}
{{- if not $name -}}
{}
{{- else -}}
{{- $row := get .Values.tee.profiles $name -}}
{{- if not $row -}}
{{- fail (printf "coordinator.profile: %q is no row of tee.profiles; there are %s" $name (keys .Values.tee.profiles | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if not (regexMatch "^(sgx|snp|sim:sgx|sim:tdx)$" $row.tee) -}}
{{- fail (printf "coordinator.profile: %q is a row for %s, which keeps no state: a coordinator runs in SGX under Gramine or in SEV-SNP" $name $row.tee) -}}
{{- end -}}
{{- toJson $row -}}
{{- end -}}
{{- end -}}

{{/* The names of the coordinator's Services, with more and more of the domain. */}}
{{- define "ashlar.names" -}}
{{- $root := . -}}
{{- $names := list -}}
{{- range $service := list (include "ashlar.fullname" .) (printf "%s-mesh" (include "ashlar.fullname" .)) -}}
{{- $short := printf "%s.%s" $service $root.Release.Namespace -}}
{{- $names = concat $names (list $service $short (printf "%s.svc" $short) (printf "%s.svc.%s" $short $root.Values.clusterDomain)) -}}
{{- end -}}
{{- concat $names .Values.coordinator.advertise | uniq | join "," -}}
{{- end -}}

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
| toPrettyJson -}}
{{- end -}}
