package manifest

import (
	"slices"
	"strings"
	"testing"
)

// TestCoordinatorEffects checks that whoever is newly admitted is named with the
// risk, and that stricter rules have none.
func TestCoordinatorEffects(t *testing.T) {
	const (
		none    = ""
		pair    = `{"package":"pair"}`
		first   = "coordinators: every coordinator that runs package pair on platform default may hold the state, with every CA key and secret"
		leaves  = "coordinators: those that do not meet package pair on platform default are refused the next time they join; what they hold they keep"
		more    = "coordinators: more may hold the state: "
		risk    = " [admit-coordinators]"
		threes  = "3333333333333333333333333333333333333333333333333333333333333333"
		twoOf   = `"pair":{"sgx":{"uniqueID":["` + ones32 + `","` + threes + `"]}}`
		other   = `"pair":{"sgx":{"uniqueID":["` + threes + `"]}}`
		sgxTDX  = `"pair":{"sgx":{"uniqueID":["` + ones32 + `"]},"tdx":{"mrtd":["` + ones48 + `"]}}`
		newest  = `"pair":{"sgx":{"signerID":"` + ones32 + `","productID":7,"minSecurityVersion":4}}`
		older   = `"pair":{"sgx":{"signerID":"` + ones32 + `","productID":7,"minSecurityVersion":3}}`
		renamed = `"pair":{"sgx":{"uniqueID":["` + ones32 + `"]}},"next":{"sgx":{"uniqueID":["` + ones32 + `"]}}`
		lower   = `"pair":{"sgx":{"uniqueID":["` + ones32 + `"]},"allowDebug":true}`
	)
	for _, c := range []struct {
		name             string
		oldPair, oldPart string
		newPair, newPart string
		edit             [2]string // of the new manifest
		want             []string
	}{
		{"the same", held, pair, held, pair, [2]string{}, nil},
		{"default written out", held, pair, held, `{"package":"pair","platform":"default"}`, [2]string{}, nil},
		{"none before and after", held, none, other, none, [2]string{}, nil},
		{"named first", held, none, held, pair, [2]string{}, []string{first + risk}},
		{"named no more", held, pair, held, none, [2]string{}, []string{"coordinators: none is admitted any more; those that have the key of the state keep it"}},
		{"one more measurement", held, pair, twoOf, pair, [2]string{}, []string{more + `package pair: sgx.uniqueID has [3333…3333] as well` + risk}},
		{"one measurement less", twoOf, pair, held, pair, [2]string{}, []string{leaves}},
		{"another measurement", held, pair, other, pair, [2]string{}, []string{more + `package pair: sgx.uniqueID has [3333…3333] as well` + risk, leaves}},
		{"one more TEE", held, pair, sgxTDX, pair, [2]string{}, []string{more + `package pair: tdx is accepted: mrtd [1111…1111]` + risk}},
		{"one TEE less", sgxTDX, pair, held, pair, [2]string{}, []string{leaves}},
		{"lower version", newest, pair, older, pair, [2]string{}, []string{"package pair: accepts security version 3 again; at least 4 was demanded [lower-floors]", more + "package pair: sgx.minSecurityVersion is 3; was 4" + risk}},
		{"higher version", older, pair, newest, pair, [2]string{}, []string{leaves}},
		{"debug", held, pair, lower, pair, [2]string{}, []string{more + "package pair: allowDebug is true; was not given" + risk}},
		{"equal package of another name", renamed, pair, renamed, `{"package":"next"}`, [2]string{}, nil},
		{"weaker package of another name", renamed, pair, renamed, `{"package":"p"}`, [2]string{}, []string{more + `package p: sgx.uniqueID has [2222…2222] as well` + risk, strings.Replace(leaves, "pair", "p", 1)}},
		{"stricter platform", held, pair, held, `{"package":"pair","platform":"rack"}`, [2]string{}, []string{strings.Replace(leaves, "default", "rack", 1)}},
		{"weaker platform", held, `{"package":"pair","platform":"rack"}`, held, pair, [2]string{}, []string{more + "platform default: sgx.minTCBEvaluation is not demanded any more; was 19" + risk}},
		{"platform demands less", held, `{"package":"pair","platform":"rack"}`, held, `{"package":"pair","platform":"rack"}`, [2]string{`"minTCBEvaluation":19`, `"minTCBEvaluation":18`},
			[]string{"platform rack: demands less: sgx.minTCBEvaluation: 18, the floor is 19 [lower-floors]", more + "platform rack: sgx.minTCBEvaluation is 18; was 19" + risk}},
		{"platform demands more", held, `{"package":"pair","platform":"rack"}`, held, `{"package":"pair","platform":"rack"}`, [2]string{`"minTCBEvaluation":19`, `"minTCBEvaluation":20`},
			[]string{strings.Replace(leaves, "default", "rack", 1)}},
		{"another's package", held, pair, held, pair, [2]string{twos32, threes}, []string{"a: must meet other reference values: instances that don't are refused at their next renewal (≤ 30m), and have no identity after 1h"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := mustParse(t, admitting(c.oldPair, c.oldPart))
			now := mustParse(t, []byte(strings.Replace(string(admitting(c.newPair, c.newPart)), c.edit[0], c.edit[1], 1)))
			d := Compare(old, now)
			got := effectLines(t, d)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if risky := slices.Contains(d.Risks(), RiskAdmitCoordinators); risky != strings.Contains(strings.Join(c.want, " "), risk) {
				t.Errorf("risks: got %v", d.Risks())
			}
		})
	}
	effects := Compare(nil, mustParse(t, admitting(held, pair))).Effects
	if e := effects[1]; e.Subject+": "+e.Text != first || e.Risk != "" || len(effects) != 3 {
		t.Errorf("first manifest: got %+v", effects)
	}
}

// TestCoordinatorsAreAskedAbout reads the answers that name coordinators.
func TestCoordinatorsAreAskedAbout(t *testing.T) {
	with := func(pair, section string) *Manifest {
		text := strings.TrimSuffix(string(admitting(pair, section)), "}") + `,"secrets":{"k":{"type":"symmetric","readers":["a"],"operations":["hmac"]}}}`
		return mustParse(t, []byte(text))
	}
	const (
		pair = `{"package":"pair","platform":"rack"}`
		sim  = `"pair":{"sim":{"program":["` + ones32 + `"],"agent":["` + ones32 + `"]}}`
	)
	for _, c := range []struct {
		name     string
		m, since *Manifest
		question string
		summary  string
		facts    []string
	}{
		{"who reads a use-only key", with(held, pair), nil, "who can ever read k", "a coordinator can read k",
			[]string{"a uses k: hmac, and never gets it; runs package p on platform default", "a coordinator reads k: holds the whole state; runs package pair on platform rack"}},
		{"without the section", with(held, ""), nil, "who can ever read k", "nobody can read k", []string{"a uses k: hmac, and never gets it; runs package p on platform default"}},
		{"who poses as one", with(sim, pair), nil, "who can ever read k", "a coordinator can read k; so can anybody who poses as one of its readers",
			[]string{"a uses k: hmac, and never gets it; runs package p on platform default", "a coordinator reads k: holds the whole state; runs package pair on platform rack",
				"anybody can be a coordinator: whoever runs the host: simulation protects from nobody"}},
		{"who releases by posing", with(sim, pair), nil, "which single person could release k", "anybody who poses as one of its readers could release k alone",
			[]string{"anybody can be a coordinator: whoever runs the host: simulation protects from nobody"}},
		{"what holds the state", with(held, pair), nil, "what can hold the state", "package pair under sgx on platform rack can run as a coordinator; who holds the state has every CA key and secret",
			[]string{`a coordinator runs pair: sgx: uniqueID [1111…1111]`, "a coordinator runs on rack: sgx: minTCBEvaluation 19"}},
		{"nothing holds the state", with(held, ""), nil, "what can hold the state", "the manifest admits no coordinator but the one that set the state up", []string{}},
		{"newly admitted", with(held, pair), with(held, ""), NewlyAllowed, "newly allowed: rule of software or platforms: 2",
			[]string{`a coordinator runs pair: sgx: uniqueID [1111…1111]`, "a coordinator runs on rack: sgx: minTCBEvaluation 19"}},
		{"newly admitted elsewhere", with(held, `{"package":"pair"}`), with(held, pair), NewlyAllowed, "newly allowed: rule of software or platforms: 1",
			[]string{"a coordinator (default): sgx.minTCBEvaluation is not demanded any more; was 19"}},
		{"not admitted any more", with(held, ""), with(held, pair), NewlyAllowed, "nothing is newly allowed", []string{}},
		{"stricter", with(held, pair), with(held, `{"package":"pair"}`), NewlyAllowed, "nothing is newly allowed", []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, err := Ask(c.m, c.since, c.question)
			if err != nil {
				t.Fatal(err)
			}
			facts := []string{}
			for _, f := range answer.Facts {
				checkGrants(t, c.m, f)
				facts = append(facts, f.String())
			}
			if answer.Summary != c.summary || !slices.Equal(facts, c.facts) {
				t.Errorf("got %q\n%q\nwant %q\n%q", answer.Summary, facts, c.summary, c.facts)
			}
		})
	}
}

// TestCoordinatorsReleaseSecrets checks by which rights one person gets a secret
// to a coordinator of theirs.
func TestCoordinatorsReleaseSecrets(t *testing.T) {
	const pair = `{"package":"pair","platform":"rack"}`
	for _, c := range []struct {
		section, right string
		want           bool
	}{
		{pair, "updateManifest:coordinators", true},
		{pair, "updateManifest:packages/pair", true},
		{pair, "updateManifest:platforms/rack", true},
		{pair, "updateManifest:platforms/other", false},
		{pair, "updateManifest:witnesses/w", false},
		{pair, "raiseSecurityVersion:pair", false},
		{"", "updateManifest:coordinators", true},
		{"", "updateManifest:packages/pair", false},
		{"", "updateManifest:platforms/rack", false},
	} {
		m := mustParse(t, admitting(held, c.section))
		m.Secrets["k"] = Secret{Type: Symmetric, Readers: []string{"a"}}
		m.Users, m.Roles = map[string]User{"alice": {Roles: []string{"r"}}}, map[string]Role{"r": {Actions: []string{c.right}}}
		answer, err := Ask(m, nil, "which single person could release k")
		if err != nil || (len(subjects(answer, FactCould)) > 0) != c.want {
			t.Errorf("%s with %s: got %q, %v, want %t", c.right, c.section, answer.Summary, err, c.want)
		}
	}
}
