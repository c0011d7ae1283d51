package differential

import (
	"bufio"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
)

// qvl is a running dcap-qvl.
type qvl struct {
	t    *testing.T
	in   *json.Encoder
	out  *bufio.Scanner
	last [32]byte // digest of the endorsements that it has
	any  bool
}

// python returns the interpreter that has dcap-qvl.
func python(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ASHLAR_DCAP_QVL")
	if path == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("ASHLAR_DCAP_QVL is not set: run make differential")
		}
		t.Skip("ASHLAR_DCAP_QVL is not set: run make differential")
	}
	return path
}

// startQVL starts dcap-qvl. It ends with the test.
func startQVL(t *testing.T) *qvl {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t), "qvl.py")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	q := &qvl{t: t, in: json.NewEncoder(in), out: bufio.NewScanner(out)}
	q.out.Buffer(nil, 1<<20)
	return q
}

// question is one line to qvl.py; byte strings are base64.
type question struct {
	Quote      []byte            `json:"quote"`
	Root       []byte            `json:"root"` // DER; empty: Intel's
	At         int64             `json:"at"`
	Collateral map[string][]byte `json:"collateral,omitempty"`
}

// ask has dcap-qvl judge a case.
func (q *qvl) ask(c testCase) answer {
	q.t.Helper()
	request := question{Quote: c.evidence.Raw, Root: der(c.root), At: c.at.Unix()}
	if d := c.endorsements.Digest(); !q.any || d != q.last {
		request.Collateral = collateralOf(c.endorsements)
		q.last, q.any = d, true
	}
	if err := q.in.Encode(request); err != nil {
		q.t.Fatal(err)
	}
	if !q.out.Scan() {
		q.t.Fatalf("dcap-qvl ended: %v", q.out.Err())
	}
	var a struct {
		OK         bool
		Status     attest.TCBStatus
		Advisories []string
		Error      string
		Panic      bool
	}
	if err := json.Unmarshal(q.out.Bytes(), &a); err != nil {
		q.t.Fatal(err)
	}
	if a.Panic {
		a.Error = "panic: " + a.Error
	}
	return answer{ok: a.OK, status: a.Status, advisories: a.Advisories, reason: a.Error}
}

func der(c *x509.Certificate) []byte {
	if c == nil {
		return []byte{}
	}
	return c.Raw
}

// collateralOf cuts endorsements into the parts that dcap-qvl takes. What cannot
// be cut is empty, which it refuses.
func collateralOf(en attest.Endorsements) map[string][]byte {
	tcb, _ := en.Get(attest.KindTCBInfo)
	qe, _ := en.Get(attest.KindQEIdentity)
	pckCRL, _ := en.Get(attest.KindPCKCRL)
	rootCRL, _ := en.Get(attest.KindRootCRL)
	c := map[string][]byte{"tcbInfoChain": tcb.Chain, "qeIdentityChain": qe.Chain, "pckCRLChain": pckCRL.Chain, "pckCRL": pckCRL.Body, "rootCRL": rootCRL.Body}
	c["tcbInfo"], c["tcbInfoSignature"] = cut(tcb.Body, "tcbInfo")
	c["qeIdentity"], c["qeIdentitySignature"] = cut(qe.Body, "enclaveIdentity")
	return c
}

// cut returns the signed member of a document as served, and its signature.
func cut(body []byte, name string) (data, signature []byte) {
	var doc map[string]json.RawMessage
	var text string
	if json.Unmarshal(body, &doc) != nil || json.Unmarshal(doc["signature"], &text) != nil {
		return nil, nil
	}
	signature, _ = hex.DecodeString(text)
	return doc[name], signature
}
