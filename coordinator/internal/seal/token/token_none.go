//go:build !cgo

package token

import "github.com/ashlar-mesh/ashlar/internal/problem"

func ask(Spec, string, []byte) (secret, info []byte, err error) { return nil, nil, errNoCGO() }

func makeKey(Spec, string) error { return errNoCGO() }

func errNoCGO() error {
	return problem.New("REC-041", "this program was built without cgo, which PKCS #11 needs").WithNext("use a build with CGO_ENABLED=1")
}
