package token

import (
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestParse(t *testing.T) {
	const good = "pkcs11:module=/lib/x.so,token=ashlar,key=state,pin-file=/run/pin"
	s, err := Parse(good)
	if want := (Spec{Module: "/lib/x.so", Token: "ashlar", Key: "state", PINFile: "/run/pin"}); err != nil || s != want {
		t.Errorf("got %+v, %v, want %+v", s, err, want)
	}
	for name, text := range map[string]string{
		"empty": "", "other": "kms:x", "PIN": strings.Replace(good, "pin-file=/run/pin", "pin=1234", 1), "twice": good + ",key=other",
		"unknown": good + ",slot=1", "relative": strings.Replace(good, "/lib/x.so", "x.so", 1), "no module": strings.Replace(good, "module=/lib/x.so,", "", 1),
		"no PIN": strings.Replace(good, ",pin-file=/run/pin", "", 1), "two PINs": good + ",pin-env=PIN", "empty key": strings.Replace(good, "key=state", "key=", 1),
		"long token": strings.Replace(good, "token=ashlar", "token="+strings.Repeat("x", 33), 1),
	} {
		_, err := Parse(text)
		if problem.CodeOf(err) != "REC-040" {
			t.Errorf("%s: got %v, want REC-040", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: the error shows the PIN", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pkcs11:module=/lib/x.so,token=ashlar,key=state,pin-env=PIN")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := Parse(text); err == nil && (s.Module == "" || s.Token == "" || s.Key == "" || (s.PINFile == "") == (s.PINEnv == "")) {
			t.Errorf("%q was read as %+v", text, s)
		}
	})
}
