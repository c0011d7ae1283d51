package cli

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/evidence"
	"github.com/ashlar-mesh/ashlar/cli/term"
	"github.com/ashlar-mesh/ashlar/coordinator/apiv1"
	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func (a *app) floorCmd() *cobra.Command {
	c := &cobra.Command{Use: "floor", Short: "What platforms must demand at least, whatever the manifest says",
		Example: "  ashlar floor show\n  ashlar floor raise default sgx.minTCBEvaluation=20"}
	c.AddCommand(a.floorShowCmd(), a.floorRaiseCmd())
	return c
}

func (a *app) floorShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show", Short: "Show the floors in force", Example: "  ashlar floor show\n  ashlar floor show -o json",
		Long: "A floor outlives manifests and is never lowered. The coordinator's evidence\nbinds those in force: ashlar verify shows them too.", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withDial(c.Context(), func(cl *client.Client) error {
				f := cl.Verified().Floors
				if f.Floors == nil {
					f.Floors = []apiv1.PlatformFloor{}
				}
				if done, err := a.p.Structured(f); done {
					return err
				}
				if len(f.Floors) == 0 {
					a.p.Printf("no floor was raised: the manifest alone decides\n")
				}
				a.floorLines(f)
				return nil
			})
		}}
}

// floorLines writes each floor, a line for each of its fields.
func (a *app) floorLines(f apiv1.Floors) {
	for _, one := range f.Floors {
		a.p.Printf("floor of platform %s, raised by %s at %s (audit record %d)\n", one.Platform, one.RaisedBy, one.RaisedAt.UTC().Format(time.RFC3339), one.Record)
		for _, line := range floorFields(one.Floor) {
			a.p.Printf("  %s\n", line)
		}
	}
}

// floorFields are the fields of a floor as floor raise takes them.
func floorFields(f attest.Floor) []string {
	raw, err := json.Marshal(f)
	var tees map[string]map[string]json.RawMessage
	if err != nil || json.Unmarshal(raw, &tees) != nil {
		return nil
	}
	var lines []string
	for _, tee := range slices.Sorted(maps.Keys(tees)) {
		for _, field := range slices.Sorted(maps.Keys(tees[tee])) {
			lines = append(lines, tee+"."+field+"="+string(tees[tee][field]))
		}
	}
	return lines
}

type raiseFlags struct {
	user   userFlags
	dryRun bool
}

func (a *app) floorRaiseCmd() *cobra.Command {
	var f raiseFlags
	c := &cobra.Command{Use: "raise PLATFORM FIELD=VALUE …", Short: "Raise what a platform must demand at least",
		Example: "  ashlar floor raise default sgx.minTCBEvaluation=20\n" +
			"  ashlar floor raise default tdx.refusedAdvisories=INTEL-SA-01234\n  ashlar floor raise amd snp.minTCB.Milan.microcode=222",
		Long: `Shows who would lose an identity, asks, and raises the floor. It counts from the
next activation or renewal on, whatever manifest comes, and is never lowered.
Needs a user whose role has the action raiseFloor:PLATFORM or raiseFloor:*.

FIELD is TEE.minTCBEvaluation, TEE.minTCBDate, TEE.refusedTCBStatuses or
TEE.refusedAdvisories (a list, with commas) of sgx, tdx or sim;
snp.minFirmware (1.55.29), or snp.minTCB.PRODUCT.PART of Milan, Genoa or Turin,
with the parts fmc, bootloader, tee, snp and microcode. What the floor in force
demands besides stays.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withUser(c.Context(), f.user, func(cl *client.Client) error { return a.raiseFloor(c.Context(), cl, args, f.dryRun) })
		}}
	f.user.register(c)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show who would lose an identity, and raise nothing")
	return c
}

func (a *app) raiseFloor(ctx context.Context, cl *client.Client, args []string, dryRun bool) error {
	platform := args[0]
	old, err := cl.Floor(ctx, platform)
	if err != nil {
		return err
	}
	floor := old.Floor
	for _, setting := range args[1:] {
		if err := setFloor(&floor, setting); err != nil {
			return err
		}
	}
	p, err := cl.Plan(ctx, apiv1.PlanRequest{Floors: map[string]attest.Floor{platform: floor}})
	if err != nil {
		return err
	}
	if dryRun {
		return a.showPlan(p)
	}
	a.notePlan(p)
	if err := a.confirm("Raise the floor of platform %s?", platform); err != nil {
		return err
	}
	result, err := cl.RaiseFloor(ctx, platform, floor, old.Digest)
	if err != nil {
		return err
	}
	if done, err := a.p.Structured(result); done {
		return err
	}
	a.p.Printf("%s platform %s demands from now on\n", a.p.Green(term.OK), platform)
	for _, line := range floorFields(result.Floor.Floor) {
		a.p.Printf("  %s\n", line)
	}
	return nil
}

// notePlan says on standard error what a change causes, before it is asked for.
func (a *app) notePlan(p apiv1.Plan) {
	a.p.Notef("of %d instances %d keep their identity, %d lose it; %d gain one\n", p.Instances, p.Keeps, p.Loses, p.Gains)
	for i, e := range p.Effects {
		if i == maxReasons {
			a.p.Notef("  and %d more: ashlar plan lists them\n", p.Loses+p.Gains-i)
			break
		}
		if e.Outcome == apiv1.Gains {
			a.p.Notef("  %s %s/%s gains one\n", a.p.Green(term.OK), e.Marble, shortID(e.Instance))
			continue
		}
		a.p.Note("  " + a.p.Red(term.Bad) + " " + e.Marble + "/" + shortID(e.Instance) + " is refused " + a.p.Ahead(e.Renewal) + ", its identity ends " +
			a.p.Ahead(e.NotAfter) + ": " + a.p.Sentence(e.Reason) + " (" + e.Code + ")\n")
	}
}

// splitFloor takes the platform off PLATFORM.TEE.FIELD=VALUE; "*" stands for
// all where none is named.
func splitFloor(text string) (platform, setting string) {
	first, rest, _ := strings.Cut(text, ".")
	switch {
	case slices.Contains(floorTEEs, first):
		return "*", text
	case first == "platform":
		return "*", rest
	}
	// A platform's name may have dots: the last TEE before the value counts.
	name, _, _ := strings.Cut(text, "=")
	for _, tee := range floorTEEs {
		if i := strings.LastIndex(name, "."+tee+"."); i > 0 {
			return text[:i], text[i+1:]
		}
	}
	return first, rest
}

var floorTEEs = []string{"sgx", "tdx", "snp", "sim"}

// setFloor sets one field of a floor: TEE.FIELD=VALUE.
func setFloor(f *attest.Floor, setting string) error {
	name, value, ok := strings.Cut(setting, "=")
	tee, field, dotted := strings.Cut(name, ".")
	if !ok || !dotted || value == "" || !slices.Contains(floorTEEs, tee) {
		return floorUsage(setting)
	}
	if tee == "snp" {
		return setSNPFloor(f, field, value, setting)
	}
	at := map[string]**attest.DCAPFloor{"sgx": &f.SGX, "tdx": &f.TDX, "sim": &f.Sim}[tee]
	d := attest.DCAPFloor{}
	if *at != nil {
		d = **at
	}
	*at = &d
	switch field {
	case "minTCBEvaluation":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return floorUsage(setting)
		}
		d.MinTCBEvaluation = uint32(n)
	case "minTCBDate":
		t, err := evidence.ParseTime(value)
		if err != nil {
			return floorUsage(setting)
		}
		d.MinTCBDate = t
	case "refusedTCBStatuses":
		for _, s := range strings.Split(value, ",") {
			d.RefusedTCBStatuses = with(d.RefusedTCBStatuses, attest.TCBStatus(s))
		}
	case "refusedAdvisories":
		for _, s := range strings.Split(value, ",") {
			d.RefusedAdvisories = with(d.RefusedAdvisories, s)
		}
	default:
		return floorUsage(setting)
	}
	return nil
}

func setSNPFloor(f *attest.Floor, field, value, setting string) error {
	s := attest.SNPFloor{}
	if f.SNP != nil {
		s = *f.SNP
	}
	f.SNP = &s
	if field == "minFirmware" {
		var v attest.SNPFirmware
		if err := v.UnmarshalText([]byte(value)); err != nil {
			return floorUsage(setting)
		}
		s.MinFirmware = &v
		return nil
	}
	parts := strings.Split(field, ".")
	n, err := strconv.ParseUint(value, 10, 8)
	if len(parts) != 3 || parts[0] != "minTCB" || err != nil {
		return floorUsage(setting)
	}
	s.MinTCB = maps.Clone(s.MinTCB)
	if s.MinTCB == nil {
		s.MinTCB = map[string]attest.SNPTCB{}
	}
	t := s.MinTCB[parts[1]]
	part, ok := map[string]*uint8{"fmc": &t.FMC, "bootloader": &t.Bootloader, "tee": &t.TEE, "snp": &t.SNP, "microcode": &t.Microcode}[parts[2]]
	if !ok {
		return floorUsage(setting)
	}
	*part = uint8(n)
	s.MinTCB[parts[1]] = t
	return nil
}

func floorUsage(setting string) error {
	return problem.New("CLI-035", "%q is no floor", setting).WithNext("a floor is such as sgx.minTCBEvaluation=20 or snp.minTCB.Milan.microcode=222: see ashlar floor raise --help")
}

// with adds an item to a list that does not have it.
func with[T comparable](list []T, item T) []T {
	if slices.Contains(list, item) {
		return list
	}
	return append(slices.Clip(list), item)
}
