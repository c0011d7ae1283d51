package inject

import "maps"

// Where the parts of a node are that profiles hand to a pod.
const (
	configFS = "/sys/kernel/config"   // configfs-tsm is below it, from Linux 6.7
	sevGuest = "/dev/sev-guest"       // Linux 5.19
	tdxGuest = "/dev/tdx_guest"       // Linux 6.2
	vTPM     = "/dev/tpmrm0"          // of an Azure confidential VM
	eventLog = "/sys/kernel/security" // with the vTPM's event log
	aesmd    = "/var/run/aesmd"       // socket of Intel's quoting service
	simNode  = "/run/ashlar/sim"      // of the simulation's platform
)

// Profiles returns the built-in table: a new map at each call, by the names that
// the annotation ashlar.dev/profile takes. The chart's value tee.profiles
// has the same rows.
func Profiles() map[string]Profile {
	table := map[string]Profile{
		"intel": {TEE: "sgx", Runtime: Image,
			EPC:         &EPCResource{Name: "sgx.intel.com/epc", Unit: "bytes", Default: "64Mi"},
			Resources:   map[string]string{"sgx.intel.com/enclave": "1", "sgx.intel.com/provision": "1"},
			Annotations: map[string]string{"sgx.intel.com/quote-provider": "{container}"}},
		"azure": {TEE: "sgx", Runtime: Image,
			EPC:         &EPCResource{Name: "kubernetes.azure.com/sgx_epc_mem_in_MiB", Unit: "MiB", Default: "64Mi"},
			Tolerations: []string{"kubernetes.azure.com/sgx_epc_mem_in_MiB"},
			HostPaths:   []HostPath{{Path: aesmd, Type: "DirectoryOrCreate"}},
			Env:         map[string]string{"SGX_AESM_ADDR": "1"}},
		"alibaba": {TEE: "sgx", Runtime: Image,
			EPC:         &EPCResource{Name: "alibabacloud.com/sgx_epc_MiB", Unit: "MiB", Default: "64Mi"},
			Tolerations: []string{"alibabacloud.com/sgx_epc_MiB"},
			HostPaths:   []HostPath{{Path: aesmd, Type: "DirectoryOrCreate"}},
			Env:         map[string]string{"SGX_AESM_ADDR": "1"}},
		"sim": {TEE: "sim:sgx", Runtime: Wrap,
			HostPaths: []HostPath{{Path: simNode, Type: "Directory"}},
			Env:       map[string]string{"ASHLAR_SIM_SOCKET": simNode + "/platform.sock"}},
	}
	maps.Copy(table, kataProfiles())
	maps.Copy(table, nodeProfiles())
	return table
}

// kataProfiles run each pod in a confidential VM of its own. The RuntimeClass
// brings its own scheduling. Kata resolves a mount below /sys in the guest: the
// configfs is the guest's, not the node's.
func kataProfiles() map[string]Profile {
	kata := func(tee, class string) Profile {
		return Profile{TEE: tee, Runtime: Wrap, RuntimeClass: class, HostPaths: []HostPath{{Path: configFS}}}
	}
	return map[string]Profile{
		"kata-qemu-snp":     kata("snp", "kata-qemu-snp"),
		"kata-qemu-tdx":     kata("tdx", "kata-qemu-tdx"),
		"kata-cc":           kata("snp", "kata-cc"),
		"kata-cc-tdx":       kata("tdx", "kata-cc"),
		"kata-cc-isolation": kata("snp", "kata-cc-isolation"),
		"kata-remote":       kata("snp", "kata-remote"),
		"kata-remote-tdx":   kata("tdx", "kata-remote"),
	}
}

// nodeProfiles run pods in nodes that are confidential VMs. What is attested is
// the whole node.
func nodeProfiles() map[string]Profile {
	node := func(tee string, paths ...HostPath) Profile {
		return Profile{TEE: tee, Runtime: Wrap, Privileged: true, HostPaths: paths}
	}
	labelled := func(p Profile, key, value string) Profile {
		p.NodeLabels = map[string]string{key: value}
		return p
	}
	config, tpm := HostPath{Path: configFS, Type: "Directory"}, HostPath{Path: vTPM, Type: "CharDevice"}
	measured := HostPath{Path: eventLog, Type: "Directory", ReadOnly: true}
	snp, tdx := node("snp", HostPath{Path: sevGuest, Type: "CharDevice"}, config), node("tdx", HostPath{Path: tdxGuest, Type: "CharDevice"}, config)
	const gke = "cloud.google.com/gke-confidential-nodes-instance-type"
	return map[string]Profile{
		"snp-node":     snp,
		"tdx-node":     labelled(tdx, "feature.node.kubernetes.io/cpu-security.tdx.protected", "true"),
		"gke-snp-node": labelled(Profile{TEE: "snp", Runtime: Wrap, Resources: map[string]string{"amd.com/sev-snp": "1"}}, gke, "SEV_SNP"),
		"gke-tdx-node": labelled(tdx, gke, "TDX"),
		"aks-snp-node": node("snp:azure", tpm, measured),
		"aks-tdx-node": node("tdx:azure", tpm, measured),
	}
}
