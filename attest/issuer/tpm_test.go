//go:build linux

package issuer_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/azure"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/issuer/issuertest"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// softwareTPM starts swtpm and returns what opens it.
func softwareTPM(t testing.TB) func() (transport.TPMCloser, error) {
	t.Helper()
	path, err := exec.LookPath("swtpm")
	if err != nil {
		t.Fatal("swtpm is missing: install Debian's package swtpm")
	}
	dir, err := os.MkdirTemp("", "swtpm") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // ended already
		cmd.Wait()         //nolint:errcheck // killed
	})
	open := func() (transport.TPMCloser, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil, err
		}
		return transport.FromReadWriteCloser(conn), nil
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := open()
		if err == nil {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			return open
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not listen: %v", err)
		}
	}
}

// inTPM does something with the TPM.
func inTPM(t testing.TB, open func() (transport.TPMCloser, error), do func(transport.TPM)) {
	t.Helper()
	c, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // nothing is buffered
	do(c)
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// define writes an NV index.
func define(t testing.TB, c transport.TPM, index uint32, attributes tpm2.TPMANV, content []byte) {
	t.Helper()
	attributes.OwnerWrite, attributes.NoDA = true, true
	handle := tpm2.TPMHandle(index)
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	must(tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: handle, NameAlg: tpm2.TPMAlgSHA256,
		Attributes: attributes, DataSize: uint16(len(content))})}.Execute(c))(t)
	public := must(tpm2.NVReadPublic{NVIndex: handle}.Execute(c))(t)
	for at := 0; at < len(content); at += 1000 {
		must(tpm2.NVWrite{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: handle, Name: public.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: content[at:min(at+1000, len(content))]}, Offset: uint16(at)}.Execute(c))(t)
		public = must(tpm2.NVReadPublic{NVIndex: handle}.Execute(c))(t) // written: another name
	}
}

// azureKey puts an attestation key where the paravisor keeps it.
func azureKey(t testing.TB, c transport.TPM) *rsa.PublicKey {
	t.Helper()
	endorsement := tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}
	made := must(tpm2.CreatePrimary{PrimaryHandle: endorsement, InPublic: tpm2.New2B(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}}),
	})}.Execute(c))(t)
	must(tpm2.EvictControl{Auth: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle: &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, PersistentHandle: azure.KeyHandle}.Execute(c))(t)
	must(tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(c))(t)
	public := must(made.OutPublic.Contents())(t)
	return must(tpm2.Pub(*public))(t).(*rsa.PublicKey)
}

// paravisorReport is what Azure's paravisor keeps about a key, without the
// padding up to 2600 bytes: an index of swtpm has at most 2048.
func paravisorReport(t testing.TB, kind uint32, key *rsa.PublicKey) []byte {
	t.Helper()
	url := base64.RawURLEncoding.EncodeToString
	runtime := must(json.Marshal(map[string]any{"keys": []any{map[string]any{"kid": "HCLAkPub", "kty": "RSA", "key_ops": []string{"sign"},
		"e": url(big.NewInt(int64(key.E)).Bytes()), "n": url(key.N.Bytes())}}, "user-data": strings.Repeat("0", 128)}))(t)
	sum := sha256.Sum256(runtime)
	data := append(sum[:], make([]byte, 32)...)
	hardware := make([]byte, 1184)
	if kind == 2 {
		copy(hardware, guest().Report(data, 0))
	} else {
		copy(hardware[128:], data)
	}
	le := binary.LittleEndian
	r := append(le.AppendUint32(le.AppendUint32([]byte("HCLA"), 2), uint32(1236+len(runtime))), make([]byte, 20)...)
	r = append(r, hardware...)
	for _, v := range []uint32{uint32(20 + len(runtime)), 1, kind, 1, uint32(len(runtime))} {
		r = le.AppendUint32(r, v)
	}
	return append(r, runtime...)
}

// azureTPM is the vTPM of a confidential VM of Azure.
func azureTPM(t testing.TB, kind uint32) func() (transport.TPMCloser, error) {
	t.Helper()
	open := softwareTPM(t)
	inTPM(t, open, func(c transport.TPM) {
		define(t, c, azure.ReportIndex, tpm2.TPMANV{OwnerRead: true}, paravisorReport(t, kind, azureKey(t, c)))
	})
	return open
}

// trusting is a verifier of hardware that believes everything.
type trusting struct{ tee attest.TEE }

func (v trusting) TEE() attest.TEE { return v.tee }

func (v trusting) Verify(e attest.Evidence, _ attest.Endorsements, _ time.Time) (attest.Claims, []attest.Step) {
	if v.tee == attest.TDX {
		return attest.Claims{TEE: v.tee, ReportData: e.Raw[568:632], TDX: &attest.TDXClaims{}}, nil
	}
	return attest.Claims{TEE: v.tee, ReportData: e.Raw[0x50:0x90], SNP: &attest.SNPClaims{}}, nil
}

// metadata plays the metadata service.
type metadata func(*http.Request) (*http.Response, error)

func (m metadata) RoundTrip(r *http.Request) (*http.Response, error) { return m(r) }

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: io.NopCloser(strings.NewReader(body))}
}

// quoting answers as Azure does: the quote of the TDREPORT it was sent.
func quoting(r *http.Request) (*http.Response, error) {
	var q struct{ Report string }
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if r.URL.String() != "http://169.254.169.254/acc/tdquote" || r.Method != http.MethodPost || json.Unmarshal(body, &q) != nil {
		return answer(404, "not found"), nil
	}
	report, err := base64.RawURLEncoding.DecodeString(q.Report)
	if err != nil || len(report) != 1024 {
		return answer(400, "bad report"), nil
	}
	quote := base64.RawURLEncoding.EncodeToString(issuertest.TDXQuote(4, report[128:192]))
	return answer(200, `{"quote":"`+quote+`"}`), nil
}

func TestAzure(t *testing.T) {
	for kind, tees := range map[uint32][2]attest.TEE{2: {attest.SNPAzure, attest.SNP}, 4: {attest.TDXAzure, attest.TDX}} {
		t.Run(string(tees[0]), func(t *testing.T) {
			computer := &issuertest.Computer{TPM: azureTPM(t, kind), Metadata: metadata(quoting), Files: files{
				"/sys/kernel/security/tpm0/binary_bios_measurements": issuertest.Content([]byte("event log"))}}
			b := attest.Bind([]byte("claims"))
			for _, tee := range []attest.TEE{issuer.Auto, tees[0]} {
				i := must(issuer.Open(t.Context(), computer.Machine(), tee))(t)
				e := must(i.Issue(t.Context(), b))(t)
				if e.TEE != tees[0] || string(e.EventLog) != "event log" {
					t.Errorf("got %s evidence with log %q", e.TEE, e.EventLog)
				}
				e.EventLog = nil
				claims, steps := must(azure.New(trusting{tees[1]}))(t).Verify(e, attest.Endorsements{}, time.Now())
				for _, s := range steps {
					if !s.OK {
						t.Errorf("%s %s: wanted %s, got %s", s.Code, s.Field, s.Want, s.Got)
					}
				}
				if !bytes.Equal(claims.ReportData, b[:]) || claims.TPM == nil || len(claims.TPM.PCRs) != 24 || claims.TPM.Vouched != string(tees[1]) {
					t.Errorf("got report data %s and %+v", claims.ReportData, claims.TPM)
				}
				if _, err := issuer.SealerOf(i); problem.CodeOf(err) != "ATT-098" || !strings.Contains(err.Error(), "anybody") {
					t.Errorf("sealing: got %v, want ATT-098", err)
				}
			}
		})
	}
}

func TestAzureMetadata(t *testing.T) {
	open := azureTPM(t, 4)
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		service metadata
		want    string
	}{
		"away":      {func(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED }, "connection refused"},
		"throttled": {func(*http.Request) (*http.Response, error) { return answer(429, "slow down"), nil }, `429: "slow down"`},
		"redirect":  {func(*http.Request) (*http.Response, error) { return answer(302, ""), nil }, "302"},
		"no JSON":   {func(*http.Request) (*http.Response, error) { return answer(200, "<html>"), nil }, "reading the answer"},
		"no quote":  {func(*http.Request) (*http.Response, error) { return answer(200, `{"quote":""}`), nil }, "holds no quote"},
		"no base64": {func(*http.Request) (*http.Response, error) { return answer(200, `{"quote":"?"}`), nil }, "holds no quote"},
		"too large": {func(*http.Request) (*http.Response, error) { return answer(200, strings.Repeat("x", 200<<10)), nil }, "more than 131072 bytes"},
		"too much": {func(*http.Request) (*http.Response, error) {
			return answer(200, `{"quote":"`+strings.Repeat("x", 100<<10)+`"}`), nil
		}, "at most 65536"},
		"unreadable": {func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(broken{gone})}, nil
		}, "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			computer := &issuertest.Computer{TPM: open, Metadata: c.service}
			i := must(issuer.Open(t.Context(), computer.Machine(), attest.TDXAzure))(t)
			if _, err := i.Issue(t.Context(), attest.Bind(nil)); problem.CodeOf(err) != "ATT-096" || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
				t.Errorf("got %v, want ATT-096 with %q", err, c.want)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		computer := &issuertest.Computer{TPM: open, Metadata: metadata(func(r *http.Request) (*http.Response, error) {
			cancel(gone)
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		i := must(issuer.Open(t.Context(), computer.Machine(), attest.TDXAzure))(t)
		if _, err := i.Issue(ctx, attest.Bind(nil)); problem.CodeOf(err) != "ATT-096" {
			t.Errorf("got %v, want ATT-096", err)
		}
	})
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// A TPM without Azure's report is no confidential VM, and counts only where it
// was asked for.
func TestTPMAlone(t *testing.T) {
	open := softwareTPM(t)
	computer := &issuertest.Computer{TPM: open}
	if _, err := issuer.Open(t.Context(), computer.Machine(), issuer.Auto); problem.CodeOf(err) != "ATT-095" || strings.Contains(err.Error(), "tpmrm0") {
		t.Errorf("auto: got %v, want ATT-095", err)
	}
	i := must(issuer.Open(t.Context(), computer.Machine(), attest.TPM))(t)
	var keys []attest.Hex
	for n := range 2 {
		b := attest.Bind([]byte{byte(n)})
		e := must(i.Issue(t.Context(), b))(t)
		claims, _ := tpm.NewVerifier().Verify(e, attest.Endorsements{}, time.Now())
		if !bytes.Equal(claims.ReportData, b[:]) || claims.TPM == nil || len(claims.TPM.PCRs) != 24 || claims.TPM.Vouched != "" {
			t.Fatalf("got %+v", claims)
		}
		keys = append(keys, claims.TPM.AttestationKey)
	}
	if !bytes.Equal(keys[0], keys[1]) {
		t.Error("each quote has another key")
	}
	inTPM(t, open, func(c transport.TPM) {
		rsp := must(tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 10}.Execute(c))(t)
		if left := must(rsp.CapabilityData.Data.Handles())(t); len(left.Handle) != 0 {
			t.Errorf("keys are left in the TPM: %x", left.Handle)
		}
	})
}

// Google's vTPM keeps the template of a key that it has certified.
func TestCertifiedTPMKey(t *testing.T) {
	open := softwareTPM(t)
	template := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true, NoDA: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}}),
	}
	certificate := []byte("a certificate")
	inTPM(t, open, func(c transport.TPM) {
		define(t, c, 0x01c10003, tpm2.TPMANV{AuthRead: true}, tpm2.Marshal(template))
		define(t, c, 0x01c10002, tpm2.TPMANV{AuthRead: true}, certificate)
	})
	i := must(issuer.Open(t.Context(), (&issuertest.Computer{TPM: open}).Machine(), attest.TPM))(t)
	e := must(i.Issue(t.Context(), attest.Bind(nil)))(t)
	var d tpm.Document
	if err := json.Unmarshal(e.Raw, &d); err != nil || len(d.Certificates) != 1 || !bytes.Equal(d.Certificates[0], certificate) {
		t.Fatalf("got %d certificates, %v", len(d.Certificates), err)
	}
	public := must(tpm2.Unmarshal[tpm2.TPMTPublic](d.Key))(t)
	if !public.ObjectAttributes.NoDA {
		t.Error("the key is not of the certified template")
	}
}

// extending has somebody extend PCR 10 after each quote, so many times.
type extending struct {
	transport.TPMCloser
	left *atomic.Int32
}

func (e extending) Send(command []byte) ([]byte, error) {
	answer, err := e.TPMCloser.Send(command)
	if binary.BigEndian.Uint32(command[6:]) == uint32(tpm2.TPMCCQuote) && e.left.Add(-1) >= 0 {
		_, extendErr := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: 10, Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}}}.Execute(e.TPMCloser)
		err = errors.Join(err, extendErr)
	}
	return answer, err
}

func TestRegistersThatMove(t *testing.T) {
	open := softwareTPM(t)
	for times, want := range map[int32]problem.Code{1: "", 7: "", 8: "ATT-096"} {
		var left atomic.Int32
		computer := &issuertest.Computer{TPM: func() (transport.TPMCloser, error) {
			c, err := open()
			return extending{c, &left}, err
		}}
		i := must(issuer.Open(t.Context(), computer.Machine(), attest.TPM))(t)
		left.Store(times)
		b := attest.Bind(nil)
		e, err := i.Issue(t.Context(), b)
		if problem.CodeOf(err) != want {
			t.Errorf("%d times: got %v, want %q", times, err, want)
		}
		if claims, _ := tpm.NewVerifier().Verify(e, attest.Endorsements{}, time.Now()); want == "" && !bytes.Equal(claims.ReportData, b[:]) {
			t.Errorf("%d times: got report data %s", times, claims.ReportData)
		}
	}
}

func TestNoAzureReport(t *testing.T) {
	good := paravisorReport(t, 2, &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537})
	set := func(at int, v byte) []byte {
		r := bytes.Clone(good)
		r[at] = v
		return r
	}
	for name, c := range map[string]struct {
		report []byte
		want   string
	}{
		"short": {good[:1235], "holds no report"}, "signature": {set(0, 'X'), "holds no report"}, "hardware": {set(1224, 3), "of hardware 3"},
		"large": {make([]byte, 2000), "holds no report"},
	} {
		t.Run(name, func(t *testing.T) {
			open := softwareTPM(t)
			inTPM(t, open, func(p transport.TPM) { define(t, p, azure.ReportIndex, tpm2.TPMANV{OwnerRead: true}, c.report) })
			_, err := issuer.Open(t.Context(), (&issuertest.Computer{TPM: open}).Machine(), attest.SNPAzure)
			if problem.CodeOf(err) != "ATT-095" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ATT-095 with %q", err, c.want)
			}
		})
	}
	// The key is not where the paravisor keeps it.
	open := softwareTPM(t)
	inTPM(t, open, func(p transport.TPM) { define(t, p, azure.ReportIndex, tpm2.TPMANV{OwnerRead: true}, good) })
	i := must(issuer.Open(t.Context(), (&issuertest.Computer{TPM: open}).Machine(), issuer.Auto))(t)
	if _, err := i.Issue(t.Context(), attest.Bind(nil)); problem.CodeOf(err) != "ATT-096" || !strings.Contains(err.Error(), "0x81000003") {
		t.Errorf("no key: got %v, want ATT-096", err)
	}
}

// recording keeps what the TPM answers.
type recording struct {
	transport.TPMCloser
	answers *[]byte
}

func (r recording) Send(command []byte) ([]byte, error) {
	answer, err := r.TPMCloser.Send(command)
	*r.answers = append(*r.answers, answer...)
	return answer, err
}

// scripted is a TPM that gives the answers it was given, one after the other.
type scripted struct{ answers *[]byte }

func (scripted) Close() error { return nil }

func (s scripted) Send([]byte) ([]byte, error) {
	rest := *s.answers
	if len(rest) < 10 {
		return rest, nil
	}
	n := min(uint64(max(binary.BigEndian.Uint32(rest[2:]), 1)), uint64(len(rest)))
	*s.answers = rest[n:]
	return rest[:n], nil
}

// A hostile TPM makes evidence that is refused, or none, and nothing worse.
func FuzzTPM(f *testing.F) {
	open := azureTPM(f, 2)
	for _, tee := range []attest.TEE{attest.SNPAzure, attest.TPM} {
		var answers []byte
		computer := &issuertest.Computer{TPM: func() (transport.TPMCloser, error) {
			c, err := open()
			return recording{c, &answers}, err
		}}
		must(must(issuer.Open(f.Context(), computer.Machine(), tee))(f).Issue(f.Context(), attest.Bind(nil)))(f)
		f.Add(tee == attest.TPM, answers)
	}
	f.Fuzz(func(t *testing.T, alone bool, answers []byte) {
		tee := attest.SNPAzure
		if alone {
			tee = attest.TPM
		}
		computer := &issuertest.Computer{TPM: func() (transport.TPMCloser, error) { return scripted{&answers}, nil }}
		i, err := issuer.Open(t.Context(), computer.Machine(), tee)
		if err != nil {
			if problem.CodeOf(err) != "ATT-095" {
				t.Errorf("open: got %v, want ATT-095", err)
			}
			return
		}
		e, err := i.Issue(t.Context(), attest.Bind(nil))
		if code := problem.CodeOf(err); err != nil && code != "ATT-096" && code != "ATT-097" || err == nil && len(e.Raw) == 0 {
			t.Errorf("got %d bytes, %v", len(e.Raw), err)
		}
	})
}
