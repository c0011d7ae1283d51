package kube

import (
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/kube/inject"
)

func TestVersionFinding(t *testing.T) {
	for _, c := range []struct{ version, constraint, want string }{
		{"v1.37.2", ">=1.28.0-0", "passed  can reach the cluster (v1.37.2)"},
		{"v1.29.4-gke.1043002", ">=1.28.0-0", "passed  can reach the cluster (v1.29.4-gke.1043002)"},
		{"v1.27.9", ">=1.28.0-0", "failed KUB-014 the API server is v1.27.9, and the chart wants >=1.28.0"},
		{"v1.20.0", "", "passed  can reach the cluster (v1.20.0)"},
	} {
		expect(t, []check.Finding{versionFinding(c.version, c.constraint)}, c.want)
	}
}

func TestAccessFinding(t *testing.T) {
	kinds := []kind{{"apps/v1", "Deployment", "deployments", true}, {"rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false}, {"x/v1", "Unknown", "", false}}
	asked := accesses(kinds, "mesh")
	if len(asked) != 4+4+5 {
		t.Fatalf("got %d permissions, want 13: none for a kind that the cluster does not know", len(asked))
	}
	expect(t, []check.Finding{accessFinding(asked, nil, "mesh")}, "passed  may do in namespace mesh what an installation needs (13 permissions)")
	expect(t, []check.Finding{accessFinding(asked, []access{{"create", "apps", "deployments", "mesh"}, {"patch", "apps", "deployments", "mesh"},
		{"create", "rbac.authorization.k8s.io", "clusterroles", ""}, {"list", "", "secrets", "mesh"}}, "mesh")},
		"failed KUB-024 you may not do all of an installation in namespace mesh: deployments.apps (create, patch), clusterroles.rbac.authorization.k8s.io (create), secrets (list)")
}

func TestStorageFinding(t *testing.T) {
	of := func(name string, standard bool) storagev1.StorageClass {
		s := storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "disk.csi"}
		if standard {
			s.Annotations = map[string]string{defaultClass: "true"}
		}
		return s
	}
	classes := []storagev1.StorageClass{of("slow", false), of("fast", true)}
	for _, c := range []struct {
		classes    []storagev1.StorageClass
		name, want string
	}{
		{classes, "", "passed  the coordinator's state goes to storage class fast (disk.csi)"},
		{classes, "slow", "passed  the coordinator's state goes to storage class slow (disk.csi)"},
		{classes, "gone", "failed KUB-025 there is no storage class gone: there are slow, fast"},
		{classes[:1], "", "failed KUB-025 no storage class is the default one: there are slow"},
		{nil, "", "failed KUB-025 no storage class is the default one: there is none"},
	} {
		expect(t, []check.Finding{storageFinding(c.classes, c.name)}, c.want)
	}
	docs, err := objects("kind: StatefulSet\napiVersion: apps/v1\nmetadata: {name: c}\nspec: {volumeClaimTemplates: [{spec: {storageClassName: slow}}]}\n")
	if err != nil || claimedClass(docs) != "slow" || claimedClass(nil) != "" {
		t.Errorf("got %q, %v; want the class that the claim names", claimedClass(docs), err)
	}
}

func TestSecurityFindings(t *testing.T) {
	table := inject.Profiles()
	for _, c := range []struct{ level, profile, want string }{
		{"", "azure", "passed  pod security of namespace mesh admits profile azure"},
		{"privileged", "snp-node", "passed  pod security of namespace mesh admits profile snp-node"},
		{"restricted", "intel", "passed  pod security of namespace mesh admits profile intel"},
		{"baseline", "azure", `failed KUB-026 namespace mesh enforces pod security "baseline", and profile azure mounts /var/run/aesmd of the node`},
		{"restricted", "snp-node", `failed KUB-026 namespace mesh enforces pod security "restricted", and profile snp-node runs a privileged container`},
	} {
		ns := corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mesh", Labels: map[string]string{}}}
		if c.level != "" {
			ns.Labels[enforce] = c.level
		}
		expect(t, []check.Finding{securityFinding(ns, c.profile, table[c.profile])}, c.want)
		s := inject.Settings{Defaults: map[string]string{table[c.profile].TEE: c.profile, "none": "unknown"}}
		expect(t, securityFindings(ns, s), c.want)
	}
}

func TestServedFinding(t *testing.T) {
	service, monitor := kind{"v1", "Service", "services", true}, kind{"monitoring.coreos.com/v1", "ServiceMonitor", "", false}
	expect(t, []check.Finding{servedFinding([]kind{service})}, "passed  knows every kind that the chart makes (1)")
	got := servedFinding([]kind{service, monitor})
	expect(t, []check.Finding{got}, "failed KUB-027 the chart makes what the cluster does not know: ServiceMonitor (monitoring.coreos.com/v1)")
	if !strings.Contains(got.Next, "Prometheus operator") {
		t.Errorf("got next step %q, want the operator that brings the kind", got.Next)
	}
}

func TestReleaseFindings(t *testing.T) {
	expect(t, releaseFindings(nil, "mesh", "1.0"), "warning KUB-028 Ashlar is not installed in namespace mesh")
	expect(t, releaseFindings([]part{{"StatefulSet", "ashlar-coordinator", "1.0", 1, 1}, {"Deployment", "ashlar-injector", "1.0", 1, 2}, {"Deployment", "old", "0.9", 2, 2}}, "mesh", "1.0"),
		"passed  ashlar-coordinator 1.0: 1 of 1 pods are ready",
		"failed KUB-028 ashlar-injector: 1 of 2 pods are ready",
		"warning KUB-028 old 0.9: 2 of 2 pods are ready; this command is 1.0")
}

func TestServerFinding(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	// The server says 3:04:05 for all of that second.
	expect(t, []check.Finding{serverFinding(at, at.Add(200*time.Millisecond), at)}, "passed  the API server's clock differs from this one by at most 1.0 s")
	expect(t, []check.Finding{serverFinding(at.Add(2*time.Minute), at.Add(2*time.Minute), at)}, "warning KUB-032 the API server's clock differs from this one by 2m0s")
	expect(t, []check.Finding{serverFinding(at.Add(-time.Minute), at.Add(-time.Minute), at)}, "warning KUB-032 the API server's clock differs from this one by 1m1s")
}

func TestLeaseFinding(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	lease := func(name string, d time.Duration) coordinationv1.Lease {
		at := metav1.NewMicroTime(now.Add(d))
		return coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}}
	}
	for _, c := range []struct {
		leases []coordinationv1.Lease
		want   string
	}{
		{nil, "passed  no node reports a time"},
		{[]coordinationv1.Lease{lease("a", -8*time.Second), lease("b", time.Second)}, "passed  the clocks of 2 nodes agree with the API server's"},
		{[]coordinationv1.Lease{lease("a", -8*time.Second), lease("b", 10*time.Minute), lease("c", -time.Hour)}, "warning KUB-032 clocks of nodes are up to 10m0s ahead of the API server's: b"},
		{[]coordinationv1.Lease{lease("a", -8*time.Second), lease("c", -time.Hour)}, "warning KUB-032 nodes have not reported for 40s, or their clocks are behind: c"},
		{[]coordinationv1.Lease{{}}, "passed  no node reports a time"},
	} {
		expect(t, []check.Finding{leaseFinding(c.leases, now)}, c.want)
	}
}

func TestServicesOf(t *testing.T) {
	got := servicesOf([]string{"run", "--pccs=https://a:8081,https://b:8081", "--kds=", "-kds=https://k", "--tee=sgx"})
	if strings.Join(got.PCCS, " ") != "https://a:8081 https://b:8081" || strings.Join(got.KDS, " ") != "https://k" {
		t.Errorf("got %+v", got)
	}
	docs, err := objects("kind: StatefulSet\napiVersion: apps/v1\nmetadata: {name: c}\nspec: {template: {spec: {containers: [{args: [run, '--pccs=https://a']}]}}}\n")
	if err != nil || len(argsOf(docs[0])) != 2 {
		t.Errorf("got %v, %v; want the coordinator's two arguments", docs, err)
	}
}
