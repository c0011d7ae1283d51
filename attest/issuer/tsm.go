package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/report"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// providers are the kernel's names (attribute "provider", Linux
// Documentation/ABI/testing/configfs-tsm-report).
var providers = map[string]attest.TEE{"sev_guest": attest.SNP, "tdx_guest": attest.TDX, "arm_cca_guest": attest.CCA}

// tsmAttempts is how often a request is made anew because somebody else wrote
// to its entry meanwhile.
const tsmAttempts = 3

// tsm asks through configfs-tsm: report data in inblob, evidence in outblob. It
// asks at the most privileged level that the kernel has (privlevel_floor; VMPL 0
// to 3 of SEV-SNP).
type tsm struct {
	machine Machine
	client  configfsi.Client
	tee     attest.TEE
	level   *uint // nil: the kernel knows no levels
	gate    gate
}

// probeTSM looks who answers, without asking for a report.
func probeTSM(_ context.Context, m Machine) (attest.Issuer, error) {
	client, err := m.TSM()
	if err != nil {
		return nil, err
	}
	entry, err := report.Create(client, &report.Request{})
	if err != nil {
		return nil, err
	}
	t := &tsm{machine: m, client: client, gate: newGate()}
	err = t.identify(entry)
	if err = errors.Join(err, entry.Destroy()); err != nil {
		return nil, err
	}
	if t.tee == attest.SNP {
		return &snpGuest{machine: m, report: t.report, level: t.level, gate: t.gate}, nil
	}
	return t, nil
}

func (t *tsm) identify(entry *report.OpenReport) error {
	name, err := entry.ReadOption("provider")
	if err != nil {
		return err
	}
	provider := strings.TrimSuffix(string(name), "\n")
	known := false
	if t.tee, known = providers[provider]; !known {
		return fmt.Errorf("provider %.64q is not known", provider)
	}
	if level, err := entry.PrivilegeLevelFloor(); err == nil {
		t.level = &level
	}
	return nil
}

// TEE implements attest.Issuer.
func (t *tsm) TEE() attest.TEE { return t.tee }

// Issue implements attest.Issuer.
func (t *tsm) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return alone(ctx, t.gate, func() (attest.Evidence, error) {
		raw, err := t.report(b)
		if err != nil {
			return attest.Evidence{}, err
		}
		e, err := checked(t.tee, raw, b)
		if t.tee == attest.TDX {
			e.EventLog = t.machine.guestEventLog()
		}
		return e, err
	})
}

// report makes one request, in an entry of its own. The kernel counts writes to
// an entry: where the count shows a write that is not ours, the answer may be to
// another question and is thrown away.
func (t *tsm) report(b attest.Binding) ([]byte, error) {
	request := report.Request{InBlob: b[:]}
	if t.level != nil {
		request.Privilege = &report.Privilege{Level: *t.level}
	}
	for attempt := 1; ; attempt++ {
		answer, err := report.Get(t.client, &request)
		var disturbed *report.GenerationErr
		switch {
		case errors.As(err, &disturbed) && attempt < tsmAttempts:
			continue
		case err != nil:
			return nil, problem.Because(err, "ATT-096", "asking configfs-tsm for %s evidence", t.tee)
		case providers[strings.TrimSuffix(answer.Provider, "\n")] != t.tee:
			return nil, problem.New("ATT-097", "configfs-tsm answered as %.64q, wanted %s", answer.Provider, t.tee)
		}
		return answer.OutBlob, nil
	}
}
