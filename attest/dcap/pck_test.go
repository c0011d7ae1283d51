package dcap

import (
	"encoding/asn1"
	"testing"
)

// der is one field of Intel's extension.
type der struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

func sequence(t *testing.T, fields ...der) asn1.RawValue {
	t.Helper()
	var body []byte
	for _, f := range fields {
		b, err := asn1.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		body = append(body, b...)
	}
	return value(t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: body})
}

func value(t *testing.T, v any) asn1.RawValue {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return asn1.RawValue{FullBytes: b}
}

func arc(base asn1.ObjectIdentifier, n int) asn1.ObjectIdentifier {
	return append(append(asn1.ObjectIdentifier{}, base...), n)
}

// svns returns the TCB's fields, all SVNs being their own number.
func svns(t *testing.T) []der {
	t.Helper()
	var out []der
	for i := 1; i <= tcbPCESVN; i++ {
		out = append(out, der{arc(oidTCB, i), value(t, i)})
	}
	return append(out, der{arc(oidTCB, 18), value(t, make([]byte, 16))})
}

func TestParseSGXExtension(t *testing.T) {
	fields := func(tcb []der) []der {
		return []der{{oidPPID, value(t, make([]byte, 16))}, {oidTCB, sequence(t, tcb...)}, {oidPCEID, value(t, []byte{1, 2})},
			{oidFMSPC, value(t, []byte{1, 2, 3, 4, 5, 6})}, {arc(oidSGX, 99), value(t, 7)}}
	}
	with := func(i int, v any) []der {
		tcb := svns(t)
		tcb[i].Value = value(t, v)
		return fields(tcb)
	}
	many := fields(svns(t))
	for i := range maxSGXField {
		many = append(many, der{arc(oidSGX, 1000+i), value(t, 1)})
	}
	for _, c := range []struct {
		name   string
		fields []der
		ok     bool
	}{
		{"good", fields(svns(t)), true},
		{"an SVN missing", fields(svns(t)[1:]), false},
		{"the PCESVN missing", fields(append(svns(t)[:16], svns(t)[17])), false},
		{"an SVN twice", fields(append(svns(t), svns(t)[3])), false},
		{"negative SVN", with(2, -1), false},
		{"SVN 255", with(2, 255), true},
		{"SVN 256", with(2, 256), false},
		{"PCESVN 65535", with(16, 65535), true},
		{"PCESVN 65536", with(16, 65536), false},
		{"SVN is a string", with(2, "x"), false},
		{"SVN under another arc", fields(append(svns(t)[1:], der{arc(oidSGX, 1), value(t, 1)})), false},
		{"SVN with a short arc", fields(append(svns(t), der{asn1.ObjectIdentifier{1, 2, 3}, value(t, 1)})), false},
		{"SVN with a longer arc", fields(append(svns(t), der{arc(arc(oidTCB, 1), 1), value(t, 1)})), false},
		{"FMSPC missing", fields(svns(t))[:3], false},
		{"PCEID missing", append(fields(svns(t))[:2], fields(svns(t))[3:]...), false},
		{"TCB missing", fields(svns(t))[2:], false},
		{"a field twice", append(fields(svns(t)), fields(svns(t))[0]), false},
		{"too many fields", many, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := parseSGXExtension(sequence(t, c.fields...).FullBytes)
			if (err == nil) != c.ok {
				t.Fatalf("got %v, want ok=%t", err, c.ok)
			}
			if c.name == "good" && (p.svn[0] != 1 || p.svn[15] != 16 || p.pcesvn != 17 || p.fmspc.String() != "010203040506" || p.pceID.String() != "0102") {
				t.Errorf("got %+v", p)
			}
		})
	}
	if _, err := parseSGXExtension(append(sequence(t, fields(svns(t))...).FullBytes, 0)); err == nil {
		t.Error("a trailing byte was accepted")
	}
}
