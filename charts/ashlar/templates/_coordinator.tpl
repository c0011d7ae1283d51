{{/* The coordinator's row of tee.profiles as JSON; an empty object if none is named. */}}
{{- define "ashlar.coordinatorProfile" -}}
{{- get .Values.tee.profiles .Values.coordinator.profile | default dict | toJson -}}
{{- end -}}

{{/* The files of the coordinator's ConfigMap as JSON. */}}
{{- define "ashlar.coordinatorFiles" -}}
{{- $files := dict -}}
{{- with .Values.coordinator.owner.certificate }}{{ $_ := set $files "owner.pem" . }}{{ end -}}
{{- with .Values.coordinator.tpmRoots }}{{ $_ := set $files "tpm-roots.pem" . }}{{ end -}}
{{- toJson $files -}}
{{- end -}}

{{/* Every name by which the coordinator's Services are called. */}}
{{- define "ashlar.names" -}}
{{- $root := . -}}
{{- $names := list -}}
{{- range $service := list (include "ashlar.fullname" .) (printf "%s-mesh" (include "ashlar.fullname" .)) -}}
{{- $long := printf "%s.%s" $service $root.Release.Namespace -}}
{{- $names = concat $names (list $service $long (printf "%s.svc" $long) (printf "%s.svc.%s" $long $root.Values.clusterDomain)) -}}
{{- end -}}
{{- concat $names .Values.coordinator.advertise | uniq | join "," -}}
{{- end -}}

{{/* Whether the state is in etcd. */}}
{{- define "ashlar.shared" -}}
{{- if eq .Values.coordinator.store.engine "etcd" }}yes{{ end -}}
{{- end -}}

{{/* The name of the Secret with the certificates for etcd; nothing if there is none. */}}
{{- define "ashlar.etcdSecret" -}}
{{- if include "ashlar.shared" . }}{{ .Values.coordinator.store.etcd.tls.secret }}{{ end -}}
{{- end -}}

{{/* Where its keys begin: no other release of the cluster has that by itself. */}}
{{- define "ashlar.storePrefix" -}}
{{- default (printf "/ashlar/%s/%s" .Release.Namespace .Release.Name) .Values.coordinator.store.etcd.prefix -}}
{{- end -}}

{{/* The state's place in etcd, as the coordinator takes it. */}}
{{- define "ashlar.storeLocation" -}}
{{- $etcd := .Values.coordinator.store.etcd -}}
{{- $options := "" -}}
{{- if not $etcd.tls.enabled -}}
{{- $options = "?tls=off" -}}
{{- else if $etcd.tls.secret -}}
{{- $options = printf "?ca=/etc/ashlar-etcd/ca.crt%s" (ternary "&cert=/etc/ashlar-etcd/tls.crt&key=/etc/ashlar-etcd/tls.key" "" $etcd.tls.clientCertificate) -}}
{{- end -}}
{{- printf "etcd://%s%s%s" (join "," $etcd.endpoints) (include "ashlar.storePrefix" .) $options -}}
{{- end -}}

{{- define "ashlar.profileAnnotations" -}}
{{- $all := dict -}}
{{- range $key, $value := .annotations }}{{ $_ := set $all $key ($value | replace "{container}" "coordinator") }}{{ end -}}
{{- toJson $all -}}
{{- end -}}

{{- define "ashlar.profileTolerations" -}}
{{- $all := list -}}
{{- range .tolerations }}{{ $all = append $all (dict "key" . "operator" "Exists") }}{{ end -}}
{{- toJson $all -}}
{{- end -}}

{{/* What gives evidence in a guest is root's; an enclave and the simulation need no privilege. */}}
{{- define "ashlar.rooted" -}}
{{- if or .privileged (eq (default "" .tee) "snp") }}yes{{ end -}}
{{- end -}}

{{- define "ashlar.podSecurity" -}}
{{- $base := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 -}}
{{- if include "ashlar.rooted" .row }}{{ $base = dict "runAsUser" 0 "runAsGroup" 0 }}{{ end -}}
{{- $_ := set $base "fsGroupChangePolicy" "OnRootMismatch" -}}
{{- $_ := set $base "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $base (deepCopy .root.Values.coordinator.podSecurityContext) | toYaml -}}
{{- end -}}

{{- define "ashlar.containerSecurity" -}}
{{- $base := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- if .row.privileged }}{{ $base = dict "privileged" true "readOnlyRootFilesystem" true }}{{ end -}}
{{- mergeOverwrite $base (deepCopy .root.Values.coordinator.securityContext) | toYaml -}}
{{- end -}}

{{/* What the container asks for, with the devices of the row. */}}
{{- define "ashlar.coordinatorResources" -}}
{{- $devices := deepCopy (default dict .row.resources) -}}
{{- with .row.epc -}}
{{- $amount := $.root.Values.coordinator.epc -}}
{{- if eq .unit "MiB" -}}
{{- $amount = ternary (trimSuffix "Mi" $amount) (trimSuffix "Gi" $amount | int64 | mul 1024 | toString) (hasSuffix "Mi" $amount) -}}
{{- end -}}
{{- $_ := set $devices .name $amount -}}
{{- end -}}
{{- $resources := deepCopy .root.Values.coordinator.resources -}}
{{- range $side := list "requests" "limits" -}}
{{- with merge (deepCopy (default dict (get $resources $side))) $devices }}{{ $_ := set $resources $side . }}{{ end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* What init and run have in common: the rest of the flags, and all that stands behind them. */}}
{{- define "ashlar.coordinatorContainer" -}}
{{- $values := .root.Values -}}
{{- $c := $values.coordinator -}}
{{- $tee := default "auto" .row.tee }}
- --state=/var/lib/ashlar/state
{{- if include "ashlar.shared" .root }}
- {{ printf "--store=%s" (include "ashlar.storeLocation" .root) | quote }}
- --replica=$(POD_NAME)
- --reach=$(POD_IP)
{{- end }}
- --endorsements=/var/lib/ashlar/endorsements
- --tee={{ $tee }}
- --seal={{ default (ternary "unique" "product" (eq $tee "snp")) $c.seal }}
{{- if hasPrefix "sim:" $tee }}
- --sim-socket=/run/ashlar/sim/platform.sock
- --sim-root=/run/ashlar/sim/root.pem
{{- end }}
{{- with $values.endorsements.pccs }}
- --pccs={{ join "," . }}
{{- end }}
{{- with $values.endorsements.kds }}
- --kds={{ join "," . }}
{{- end }}
{{- if $c.tpmRoots }}
- --tpm-roots=/etc/ashlar/tpm-roots.pem
{{- end }}
{{- if $c.owner.certificate }}
- --owner=/etc/ashlar/owner.pem
{{- else if $c.owner.configMap }}
- --owner=/etc/ashlar-owner/owner.pem
{{- end }}
- --advertise={{ include "ashlar.names" .root }}
- --log-format={{ $c.logFormat }}
{{- if $c.debug }}
- --debug
{{- end }}
image: {{ include "ashlar.image" (dict "root" .root "image" $c.image) }}
imagePullPolicy: {{ $values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
{{- $env := default dict .row.env }}
{{- if or $env (include "ashlar.shared" .root) }}
env:
{{- range $name, $value := $env }}
- {name: {{ $name | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- if include "ashlar.shared" .root }}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- end }}
{{- end }}
securityContext: {{- include "ashlar.containerSecurity" . | nindent 2 }}
resources: {{- include "ashlar.coordinatorResources" . | nindent 2 }}
volumeMounts:
- {name: state, mountPath: /var/lib/ashlar}
{{- if .files }}
- {name: config, mountPath: /etc/ashlar, readOnly: true}
{{- end }}
{{- if $c.owner.configMap }}
- {name: owner, mountPath: /etc/ashlar-owner, readOnly: true}
{{- end }}
{{- if include "ashlar.etcdSecret" .root }}
- {name: etcd, mountPath: /etc/ashlar-etcd, readOnly: true}
{{- end }}
{{- if $values.endorsements.existingClaim }}
- {name: endorsements, mountPath: /var/lib/ashlar/endorsements}
{{- end }}
{{- range $i, $p := .row.hostPaths }}
- {name: host-{{ $i }}, mountPath: {{ $p.path | quote }}{{ if $p.readOnly }}, readOnly: true{{ end }}}
{{- end }}
{{- end -}}

{{- define "ashlar.coordinatorVolumes" -}}
{{- $values := .root.Values -}}
{{- if .files }}
- name: config
  configMap: {name: {{ include "ashlar.fullname" .root }}-coordinator}
{{- end }}
{{- with $values.coordinator.owner.configMap }}
- name: owner
  configMap: {name: {{ . | quote }}, items: [{key: owner.pem, path: owner.pem}]}
{{- end }}
{{- with include "ashlar.etcdSecret" .root }}
- name: etcd
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items:
    - {key: ca.crt, path: ca.crt}
    {{- if $values.coordinator.store.etcd.tls.clientCertificate }}
    - {key: tls.crt, path: tls.crt}
    - {key: tls.key, path: tls.key}
    {{- end }}
{{- end }}
{{- with $values.endorsements.existingClaim }}
- name: endorsements
  persistentVolumeClaim: {claimName: {{ . | quote }}}
{{- end }}
{{- range $i, $p := .row.hostPaths }}
- name: host-{{ $i }}
  hostPath: {path: {{ $p.path | quote }}, type: {{ default "" $p.type | quote }}}
{{- end }}
{{- end -}}
