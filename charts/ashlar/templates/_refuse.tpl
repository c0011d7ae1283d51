{{/* Fails with all that no schema can say of the values. */}}
{{- define "ashlar.refuse" -}}
{{- $why := list -}}
{{- $c := .Values.coordinator -}}
{{- $table := .Values.tee.profiles -}}
{{- $names := keys $table | sortAlpha | join ", " -}}
{{- if and .Release.IsInstall (not $c.state.createUntil) -}}
{{- $why = append $why "coordinator.state.createUntil: say until when the state of this new deployment may be made, such as an hour from now as 2026-01-02T15:04:05Z; or \"never\", if its volume has a state already" -}}
{{- end -}}
{{- if and .Values.injector.enabled (not .Values.policy) -}}
{{- $why = append $why "policy: say what the coordinator has to be, by --policy policy.json, with Helm by --set-file policy=policy.json: nothing is injected for one that cannot be judged. Without the injector: --set injector.enabled=false" -}}
{{- end -}}
{{- with $c.profile -}}
{{- $row := get $table . | default dict -}}
{{- if not $row -}}
{{- $why = append $why (printf "coordinator.profile: %q is no row of tee.profiles; there are %s" . $names) -}}
{{- else if not (has $row.tee (list "sgx" "snp" "sim:sgx" "sim:tdx")) -}}
{{- $why = append $why (printf "coordinator.profile: %q is a row for %s, which has no key to seal a state with: a coordinator runs in SGX under Gramine, or in SEV-SNP" . $row.tee) -}}
{{- else if and $row.runtimeClass (not $c.guestMeasuresContainer) -}}
{{- $why = append $why (printf "coordinator.profile: %q starts a guest by the runtime class %s. Other containers in such a guest on the same machine could open the state, unless its launch measurement covers which containers it starts: say so by coordinator.guestMeasuresContainer, or choose another row" . $row.runtimeClass) -}}
{{- end -}}
{{- end -}}
{{- $etcd := $c.store.etcd -}}
{{- if include "ashlar.shared" . -}}
{{- if not $etcd.endpoints -}}
{{- $why = append $why "coordinator.store.etcd.endpoints: say where etcd is, such as [etcd-0.etcd:2379, etcd-1.etcd:2379, etcd-2.etcd:2379]" -}}
{{- end -}}
{{- if and $etcd.tls.secret (not $etcd.tls.enabled) -}}
{{- $why = append $why "coordinator.store.etcd.tls: a Secret with certificates goes with tls.enabled" -}}
{{- end -}}
{{- else -}}
{{- if gt (int $c.replicas) 1 -}}
{{- $why = append $why "coordinator.replicas: the embedded store has one writer; for more coordinators than one choose coordinator.store.engine: etcd" -}}
{{- end -}}
{{- if or $etcd.endpoints $etcd.prefix $etcd.tls.secret -}}
{{- $why = append $why "coordinator.store.etcd: the embedded store does not read it; choose coordinator.store.engine: etcd, or leave it out" -}}
{{- end -}}
{{- end -}}
{{- if and (gt (int $c.replicas) 1) (hasKey $c.nodeSelector "kubernetes.io/hostname") -}}
{{- $why = append $why "coordinator.nodeSelector: kubernetes.io/hostname puts all coordinators on one node, and its end is theirs; leave it out, or run one" -}}
{{- end -}}
{{- if and $c.owner.certificate $c.owner.configMap -}}
{{- $why = append $why "coordinator.owner: give the certificate or the name of a ConfigMap, not both" -}}
{{- end -}}
{{- range $tee, $profile := .Values.tee.defaults -}}
{{- $row := get $table $profile | default dict -}}
{{- if ne (default "" $row.tee) $tee -}}
{{- $why = append $why (printf "tee.defaults: %q is no row of tee.profiles for %s; there are %s" $profile $tee $names) -}}
{{- end -}}
{{- end -}}
{{- if $why -}}
{{- fail (printf "the values do not fit together\n- %s" (join "\n- " $why)) -}}
{{- end -}}
{{- end -}}
