package issuer_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/attest/issuer/issuertest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func sealer(t *testing.T, c *issuertest.Computer) issuer.Sealer {
	t.Helper()
	i, err := issuer.Open(t.Context(), c.Machine(), issuer.Auto)
	if err != nil {
		t.Fatal(err)
	}
	s, err := issuer.SealerOf(i)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func key(t *testing.T, s issuer.Sealer, policy issuer.SealPolicy, info []byte) (k, newInfo []byte) {
	t.Helper()
	k, newInfo, err := s.SealKey(t.Context(), policy, info)
	if err != nil {
		t.Fatalf("policy %s: %v", policy, err)
	}
	return k, newInfo
}

func snpComputer(g *issuertest.SNP, tsm bool) *issuertest.Computer {
	c := &issuertest.Computer{Files: files{"/dev/sev-guest": g.Open}}
	if tsm {
		c.TSM = g.TSM()
	}
	return c
}

func TestSNPKeys(t *testing.T) {
	for name, tsm := range map[string]bool{"configfs": true, "device": false} {
		t.Run(name, func(t *testing.T) {
			g := guest()
			s := sealer(t, snpComputer(g, tsm))
			first, info := key(t, s, issuer.SealUnique, nil)
			if len(first) != 32 || len(info) != 16 {
				t.Fatalf("key of %d bytes, info of %d, want 32 and 16", len(first), len(info))
			}
			g.Update(g.CommittedTCB + 1)
			if again, _ := key(t, s, issuer.SealUnique, info); !bytes.Equal(again, first) {
				t.Error("a firmware update changed the key")
			}
			if next, _ := key(t, s, issuer.SealUnique, nil); bytes.Equal(next, first) {
				t.Error("the newest key is not of the newest firmware")
			}
			for what, change := range map[string]func(*issuertest.SNP){
				"chip":        func(g *issuertest.SNP) { g.Chip[1] ^= 1 },
				"measurement": func(g *issuertest.SNP) { g.Measurement[1] ^= 1 },
				"policy":      func(g *issuertest.SNP) { g.Policy |= 1 << 19 }, // debug
			} {
				other := guest()
				change(other)
				if k, _ := key(t, sealer(t, snpComputer(other, tsm)), issuer.SealUnique, info); bytes.Equal(k, first) {
					t.Errorf("another %s gets the same key", what)
				}
			}
			downgraded := guest()
			downgraded.CommittedTCB--
			if _, _, err := sealer(t, snpComputer(downgraded, tsm)).SealKey(t.Context(), issuer.SealUnique, info); problem.CodeOf(err) != "ATT-096" || !strings.Contains(err.Error(), "committed TCB is lower") {
				t.Errorf("older firmware: got %v, want ATT-096", err)
			}
		})
	}
}

func TestSNPKeyAtItsLevel(t *testing.T) {
	g := guest()
	g.Level = 2
	s := sealer(t, snpComputer(g, true))
	_, info := key(t, s, issuer.SealUnique, nil)
	if info[1] != 2 {
		t.Errorf("info names VMPL %d, want 2", info[1])
	}
	info[1] = 3 // software of lower privilege could derive that one
	if _, _, err := s.SealKey(t.Context(), issuer.SealUnique, info); problem.CodeOf(err) != "ATT-099" {
		t.Errorf("got %v, want ATT-099", err)
	}
}

func TestSNPKeyRefusals(t *testing.T) {
	g := guest()
	s := sealer(t, snpComputer(g, true))
	_, good := key(t, s, issuer.SealUnique, nil)
	derived := g.Keys
	for name, info := range map[string][]byte{
		"empty": {}, "short": good[:15], "long": append(good[:16:16], 0), "version": append([]byte{2}, good[1:]...),
		"reserved": append([]byte{1, 0, 1}, good[3:]...),
	} {
		if _, _, err := s.SealKey(t.Context(), issuer.SealUnique, info); problem.CodeOf(err) != "ATT-099" {
			t.Errorf("%s: got %v, want ATT-099", name, err)
		}
	}
	for _, policy := range []issuer.SealPolicy{issuer.SealProduct, "", "other"} {
		if _, _, err := s.SealKey(t.Context(), policy, nil); problem.CodeOf(err) != "ATT-098" {
			t.Errorf("policy %q: got %v, want ATT-098", policy, err)
		}
	}
	if g.Keys != derived {
		t.Errorf("%d keys were derived for nothing", g.Keys-derived)
	}
	g.Fail = func(request uintptr, out []byte, _ *issuertest.Result) error {
		if request == 0xc0205301 {
			copy(out[32:], make([]byte, 32))
		}
		return nil
	}
	if k, _, err := s.SealKey(t.Context(), issuer.SealUnique, nil); problem.CodeOf(err) != "ATT-099" || k != nil {
		t.Errorf("zeros: got %v, want ATT-099", err)
	}
	if _, _, err := sealer(t, &issuertest.Computer{TSM: guest().TSM()}).SealKey(t.Context(), issuer.SealUnique, nil); problem.CodeOf(err) != "ATT-096" {
		t.Errorf("no device: got %v, want ATT-096", err)
	}
}

func TestOcclumKeys(t *testing.T) {
	computer := func(change func(*issuertest.Occlum)) *issuertest.Computer {
		o := &issuertest.Occlum{SGX: enclave()}
		change(o)
		return &issuertest.Computer{Files: files{"/dev/sgx": o.Open}}
	}
	s := sealer(t, computer(func(*issuertest.Occlum) {}))
	kept := map[issuer.SealPolicy][2][]byte{}
	for _, policy := range []issuer.SealPolicy{issuer.SealProduct, issuer.SealUnique} {
		k, info := key(t, s, policy, nil)
		kept[policy] = [2][]byte{k, info}
		if again, _ := key(t, s, policy, info); !bytes.Equal(again, k) || len(k) != 16 {
			t.Errorf("%s: another key, of %d bytes, from the same info", policy, len(again))
		}
		if other, _ := key(t, s, policy, nil); bytes.Equal(other, k) {
			t.Errorf("%s: two states share a key", policy)
		}
	}
	for name, c := range map[string]struct {
		change          func(*issuertest.Occlum)
		product, unique bool // gets the same key
	}{
		"microcode update": {func(o *issuertest.Occlum) { o.CPUSVN[0]++ }, true, true},
		"new release":      {func(o *issuertest.Occlum) { o.MRENCLAVE[0]++; o.ISVSVN++ }, true, false},
		"other signer":     {func(o *issuertest.Occlum) { o.MRSIGNER[0]++ }, false, true},
		"other product":    {func(o *issuertest.Occlum) { o.ProductID++ }, false, false},
		"other machine":    {func(o *issuertest.Occlum) { o.CPU[0]++ }, false, false},
	} {
		s := sealer(t, computer(c.change))
		for policy, want := range map[issuer.SealPolicy]bool{issuer.SealProduct: c.product, issuer.SealUnique: c.unique} {
			k, _, err := s.SealKey(t.Context(), policy, kept[policy][1])
			if err != nil || bytes.Equal(k, kept[policy][0]) != want {
				t.Errorf("%s, %s: same key %v, %v, want %v", name, policy, !want, err, want)
			}
		}
	}
	old := sealer(t, computer(func(o *issuertest.Occlum) { o.CPUSVN[0]-- }))
	if _, _, err := old.SealKey(t.Context(), issuer.SealUnique, kept[issuer.SealUnique][1]); problem.CodeOf(err) != "ATT-096" {
		t.Errorf("older microcode: got %v, want ATT-096", err)
	}
	zeros := sealer(t, computer(func(o *issuertest.Occlum) { o.ZeroKeys = true }))
	if _, _, err := zeros.SealKey(t.Context(), issuer.SealUnique, nil); problem.CodeOf(err) != "ATT-099" {
		t.Errorf("zeros: got %v, want ATT-099", err)
	}
	if _, _, err := s.SealKey(t.Context(), "other", nil); problem.CodeOf(err) != "ATT-098" {
		t.Errorf("policy: got %v, want ATT-098", err)
	}
}

// A request for a key that other enclaves get as well is refused, whoever left
// it there.
func TestForeignKeyRequests(t *testing.T) {
	o := &issuertest.Occlum{SGX: enclave()}
	s := sealer(t, &issuertest.Computer{Files: files{"/dev/sgx": o.Open}})
	_, good := key(t, s, issuer.SealUnique, nil)
	set := func(at int, v byte) []byte {
		r := bytes.Clone(good)
		r[at] = v
		return r
	}
	for name, info := range map[string][]byte{
		"empty": {}, "short": good[:511], "long": append(bytes.Clone(good), 0),
		"key name": set(0, 0), "no policy": set(2, 0), "signer's policy": set(2, 2), "both": set(2, 3), "reserved": set(6, 1),
		"debug not mixed in": set(24, 9), "XFRM mask": set(32, 1), "misc mask": set(75, 0), "CONFIGSVN": set(76, 1), "tail": set(511, 1),
	} {
		if k, _, err := s.SealKey(t.Context(), issuer.SealUnique, info); problem.CodeOf(err) != "ATT-099" || k != nil {
			t.Errorf("%s: got %v, want ATT-099", name, err)
		}
	}
}

func TestGramineKeys(t *testing.T) {
	computer := func(change func(*issuertest.Gramine)) *issuertest.Computer {
		g := &issuertest.Gramine{SGX: enclave(), Type: "dcap"}
		change(g)
		return &issuertest.Computer{Files: g.Files()}
	}
	s := sealer(t, computer(func(*issuertest.Gramine) {}))
	product, info := key(t, s, issuer.SealProduct, nil)
	unique, _ := key(t, s, issuer.SealUnique, nil)
	if len(product) != 16 || len(info) != 0 || bytes.Equal(product, unique) {
		t.Errorf("keys of %d and %d bytes, info of %d", len(product), len(unique), len(info))
	}
	next := sealer(t, computer(func(g *issuertest.Gramine) { g.MRENCLAVE[0]++ }))
	if k, _ := key(t, next, issuer.SealProduct, nil); !bytes.Equal(k, product) {
		t.Error("the next release gets another product key")
	}
	if k, _ := key(t, next, issuer.SealUnique, nil); bytes.Equal(k, unique) {
		t.Error("the next release gets the unique key")
	}
	for name, c := range map[string]struct {
		change func(*issuertest.Gramine)
		file   []byte
		want   problem.Code
	}{
		"zeros": {func(g *issuertest.Gramine) { g.ZeroKeys = true }, nil, "ATT-099"},
		"short": {func(*issuertest.Gramine) {}, make([]byte, 15), "ATT-097"},
		"none":  {func(*issuertest.Gramine) {}, []byte{}, "ATT-097"},
		"long":  {func(*issuertest.Gramine) {}, make([]byte, 17), "ATT-096"},
	} {
		computer := computer(c.change)
		if c.file != nil {
			computer.Files["/dev/attestation/keys/_sgx_mrsigner"] = issuertest.Content(c.file)
		}
		if k, _, err := sealer(t, computer).SealKey(t.Context(), issuer.SealProduct, nil); problem.CodeOf(err) != c.want || k != nil {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if _, _, err := s.SealKey(t.Context(), "other", nil); problem.CodeOf(err) != "ATT-098" {
		t.Errorf("policy: got %v, want ATT-098", err)
	}
}

func TestNoSealingKey(t *testing.T) {
	g := &issuertest.TDX{}
	i, err := issuer.Open(t.Context(), (&issuertest.Computer{Files: files{"/dev/tdx_guest": g.Open}}).Machine(), attest.TDX)
	if err != nil {
		t.Fatal(err)
	}
	_, err = issuer.SealerOf(i)
	if problem.CodeOf(err) != "ATT-098" || !strings.Contains(problem.From(err).Next, "SEV-SNP") {
		t.Errorf("got %v, want ATT-098 with what to use instead", err)
	}
}
