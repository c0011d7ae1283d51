package manifest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func alice(t *testing.T) string {
	return mustParse(t, sample(t)).Users["alice"].Certificate
}

func TestParsePolicyFile(t *testing.T) {
	root, err := json.Marshal(alice(t))
	if err != nil {
		t.Fatal(err)
	}
	sim := `{"sim": {"program": ["` + strings.Repeat("11", 32) + `"], "agent": ["` + strings.Repeat("11", 32) + `"]}}`
	sgx := `{"sgx": {"uniqueID": ["` + strings.Repeat("11", 32) + `"]}}`
	guest := `{"measurement": ["` + strings.Repeat("11", 48) + `"]}`
	snp := `{"snp": ` + guest + `}`
	floor := `{"snp": {"minTCB": {"Milan": {"snp": 24}}}}`
	w1, w2 := "w1.example+89d3dde6+BIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c", "w2.example+c56c0ee5+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU"
	both := strings.Replace(sgx, `}}`, `}, `, 1) + sim[1:]
	for _, c := range []struct{ name, raw, code string }{
		{"sgx", `{"tee": "sgx", "package": ` + sgx + `, "platform": {"sgx": {"minTCBEvaluation": 18}}}`, ""},
		{"sim", `{"$comment": "x", "tee": "sim", "package": ` + sim + `, "simulationRoot": ` + string(root) + `}`, ""},
		{"sim without root", `{"tee": "sim", "package": ` + sim + `}`, "MAN-046"},
		{"sgx with root", `{"tee": "sgx", "package": ` + sgx + `, "simulationRoot": ` + string(root) + `}`, "MAN-046"},
		{"sgx and sim", `{"tee": "sgx", "package": ` + both + `}`, "MAN-046"},
		{"other TEE", `{"tee": "tdx", "package": ` + sgx + `}`, "MAN-046"},
		{"snp", `{"tee": "snp", "package": ` + snp + `, "platform": ` + floor + `}`, ""},
		{"snp without measurement", `{"tee": "snp", "package": {"snp": {"vmpl": 0}}, "platform": ` + floor + `}`, "MAN-020"},
		{"snp without platform", `{"tee": "snp", "package": ` + snp + `}`, "MAN-046"},
		{"snp without rules", `{"tee": "snp", "package": ` + snp + `, "platform": {"sgx": {}}}`, "MAN-046"},
		{"snp without floor", `{"tee": "snp", "package": ` + snp + `, "platform": {"snp": {"allowSMT": true}}}`, "MAN-005"},
		{"snp with reference values of sgx", `{"tee": "snp", "package": ` + sgx + `, "platform": ` + floor + `}`, "MAN-046"},
		{"sev", `{"tee": "sev", "package": ` + snp + `}`, "MAN-004"},
		{"sim:sgx", `{"tee": "sim:sgx", "package": ` + sgx + `}`, "MAN-004"},
		{"no tee", `{"package": ` + sgx + `}`, "MAN-005"},
		{"no measurement", `{"tee": "sgx", "package": {"sgx": {}}}`, "MAN-020"},
		{"no package", `{"tee": "sgx"}`, "MAN-005"},
		{"root no certificate", `{"tee": "sim", "package": ` + sim + `, "simulationRoot": "x"}`, "MAN-027"},
		{"azure", `{"tee": "azure", "package": {"azure": {"snp": ` + guest + `, "pcrs": {"4": ["` + strings.Repeat("11", 32) + `"]}}}, "platform": ` + floor + `}`, ""},
		{"azure without rules", `{"tee": "azure", "package": {"azure": {"snp": ` + guest + `, "pcrs": {"4": ["` + strings.Repeat("11", 32) + `"]}}}}`, "MAN-046"},
		{"azure without hardware", `{"tee": "azure", "package": {"azure": {"pcrs": {"4": ["` + strings.Repeat("11", 32) + `"]}}}}`, "MAN-020"},
		{"azure without PCRs", `{"tee": "azure", "package": {"azure": {"snp": ` + guest + `}}, "platform": ` + floor + `}`, "MAN-020"},
		{"azure with plain reference values", `{"tee": "azure", "package": {"snp": ` + guest + `}, "platform": ` + floor + `}`, "MAN-046"},
		{"tpm", `{"tee": "tpm", "package": {"tpm": {"pcrs": {"4": ["` + strings.Repeat("11", 32) + `"]}}}}`, ""},
		{"tpm without PCRs", `{"tee": "tpm", "package": {"tpm": {}}}`, "MAN-020"},
		{"plug-in beside", `{"tee": "sgx", "package": {"sgx": {"uniqueID": ["` + strings.Repeat("11", 32) + `"]}, "plugins": {"cca": {"allowAnyMeasurement": true}}}}`, "MAN-046"},
		{"devices", `{"tee": "sgx", "package": {"sgx": {"uniqueID": ["` + strings.Repeat("11", 32) + `"]}, "devices": {"gpu": {"nvidia": {}}}}}`, "MAN-046"},
		{"other case", `{"TEE": "sim", "tee": "sgx", "package": ` + sgx + `}`, "MAN-002"},
		{"maxAge", `{"tee": "sgx", "package": ` + sgx + `, "platform": {"endorsements": {"maxAge": "1h"}}}`, "MAN-037"},
		{"witness", `{"tee": "sgx", "package": ` + sgx + `, "log": {"witnesses": ["` + w1 + `", "` + w2 + `"], "atLeast": 1, "within": "1h"}}`, ""},
		{"no witness", `{"tee": "sgx", "package": ` + sgx + `, "log": {"witnesses": []}}`, "MAN-006"},
		{"log without witnesses", `{"tee": "sgx", "package": ` + sgx + `, "log": {"atLeast": 1}}`, "MAN-005"},
		{"witness mistyped", `{"tee": "sgx", "package": ` + sgx + `, "log": {"witnesses": ["` + w1[:len(w1)-3] + `A=="]}}`, "MAN-077"},
		{"witness twice", `{"tee": "sgx", "package": ` + sgx + `, "log": {"witnesses": ["` + w1 + `", "` + w1 + `"]}}`, "MAN-078"},
		{"more than there are", `{"tee": "sgx", "package": ` + sgx + `, "log": {"witnesses": ["` + w1 + `"], "atLeast": 2}}`, "MAN-046"},
		{"none of them", `{"tee": "sgx", "package": ` + sgx + `, "log": {"witnesses": ["` + w1 + `"], "atLeast": 0}}`, "MAN-006"},
		{"too large", strings.Repeat(" ", MaxPolicyFile+1), "MAN-010"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, ds := ParsePolicyFile([]byte(c.raw))
			if c.code == "" {
				if ds.HasErrors() || f.TEE == "" {
					t.Fatalf("got %v, want a policy", ds)
				}
				if p := f.Policy(); (p.Package.SGX != nil) != (f.TEE == "sgx") || (p.Package.SNP != nil) != (f.TEE == "snp") || (p.Package.Sim != nil) != f.Simulated() ||
					(p.Package.Azure != nil) != (f.TEE == "azure") || (p.Package.TPM != nil) != (f.TEE == "tpm") {
					t.Errorf("got policy %+v for %s", p.Package, f.TEE)
				}
				return
			}
			var codes []string
			for _, d := range ds {
				codes = append(codes, string(d.Code))
			}
			if !strings.Contains(fmt.Sprint(codes), c.code) || f.TEE != "" {
				t.Errorf("got %v, %q; want %s and no policy", ds, f.TEE, c.code)
			}
		})
	}
	if p := (PolicyFile{}).Policy(); p.Package.SGX != nil || p.Package.TDX != nil || p.Package.SNP != nil || p.Package.Sim != nil {
		t.Error("the zero policy file must accept nothing")
	}
}
