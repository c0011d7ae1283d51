package platform

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/ashlar-mesh/ashlar/attest"
)

// quoter is the quoting enclave of one shape: its attestation key and the
// report by which the platform vouches for that, made once.
type quoter struct {
	key        *ecdsa.PrivateKey
	public     []byte // x and y, 32 bytes each
	report     []byte // 384 bytes
	reportSig  []byte // 64 bytes, by the PCK key
	authData   []byte
	headerVers uint16
}

// Fields of the quoting enclaves' identity; collateral.go says them again.
var (
	qeSigner   = sha256.Sum256([]byte("Ashlar SIMULATION quoting enclave signer"))
	qeProdID   = map[attest.TEE]uint16{attest.SimSGX: 1, attest.SimTDX: 2}
	qeVendorID = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}
)

const (
	qeSVN           = 4
	qeFlags         = 0x15 // initialised, 64-bit, may use the provisioning key
	programFlags    = 0x85 // initialised, 64-bit, key separation and sharing
	flagDebug       = 0x02
	tdFlagDebug     = 0x01
	tdFlags         = 0x10000000 // no #VE for pending pages
	xfrm            = 0x07
	xfam            = 0x061ae7
	moduleSVN       = 3 // TEE TCB SVN, byte 0
	moduleVersion   = 1 // TEE TCB SVN, byte 1
	tdComponentSVN  = 3 // the other bytes
	reportSize      = 384
	tdReportSize    = 584
	certTypeChain   = 5
	certTypeQE      = 6
	keyTypeECDSA256 = 2
	teeTypeTDX      = 0x81
)

func newQuoter(r io.Reader, tee attest.TEE, pck *ecdsa.PrivateKey) (*quoter, error) {
	key, err := newKey(r)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	q := &quoter{key: key, public: point[1:], authData: make([]byte, 32), headerVers: 3}
	for i := range q.authData {
		q.authData[i] = byte(i)
	}
	if tee == attest.SimTDX {
		q.headerVers = 4
	}
	sum := sha256.Sum256(slices.Concat(q.public, q.authData))
	q.report = sgxReport(reportFields{
		unique: sha256.Sum256([]byte("Ashlar SIMULATION quoting enclave")), signer: qeSigner,
		flags: qeFlags, prodID: qeProdID[tee], svn: qeSVN, data: sum[:],
	})
	q.reportSig, err = signRaw(r, pck, q.report)
	return q, err
}

type reportFields struct {
	unique, signer [32]byte
	flags          uint64
	config         []byte
	prodID, svn    uint16
	data           []byte
}

// sgxReport encodes an SGX report body, 384 bytes (Intel SGX DCAP quote format,
// "Enclave Report Body").
func sgxReport(f reportFields) []byte {
	b := make([]byte, reportSize)
	copy(b, cpuSVN)
	binary.LittleEndian.PutUint64(b[48:], f.flags)
	binary.LittleEndian.PutUint64(b[56:], xfrm)
	copy(b[64:], f.unique[:])
	copy(b[128:], f.signer[:])
	copy(b[192:256], f.config)
	binary.LittleEndian.PutUint16(b[256:], f.prodID)
	binary.LittleEndian.PutUint16(b[258:], f.svn)
	copy(b[320:], f.data)
	return b
}

// tdReport encodes a TD report body of TDX 1.0, 584 bytes (Intel TDX DCAP quote
// format version 4, "TD Quote Body").
func tdReport(m Measurement, files [32]byte, b attest.Binding, attributes uint64) []byte {
	r := make([]byte, tdReportSize)
	r[0], r[1] = moduleSVN, moduleVersion
	for i := 2; i < 16; i++ {
		r[i] = tdComponentSVN
	}
	binary.LittleEndian.PutUint64(r[120:], attributes)
	binary.LittleEndian.PutUint64(r[128:], xfam)
	copy(r[136:], m.Program)
	copy(r[184:], files[:])
	copy(r[232:], m.Agent)
	copy(r[520:], b[:])
	return r
}

// quote signs evidence of a measurement, misbehaving as told.
func (p *Platform) quote(tee attest.TEE, m Measurement, b attest.Binding, bad Misbehaviour) (attest.Evidence, error) {
	q, ok := p.quoting[tee]
	if !ok {
		return attest.Evidence{}, fmt.Errorf("no quotes of TEE %.32q: want %q or %q", tee, attest.SimSGX, attest.SimTDX)
	}
	if len(m.Program) != sha256.Size || len(m.Agent) != sha256.Size {
		return attest.Evidence{}, fmt.Errorf("program and agent digests have %d and %d bytes, want %d", len(m.Program), len(m.Agent), sha256.Size)
	}
	if bad.OtherBinding {
		b[0] ^= 0xff
	}
	signed := append(q.header(), q.body(m, b, bad.Debug)...)
	signature, err := signRaw(p.rand, q.key, signed)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("signing a quote: %w", err)
	}
	if bad.BadSignature {
		signature[len(signature)-1] ^= 1
	}
	tail := q.signatureData(signature, p.chain)
	raw := binary.LittleEndian.AppendUint32(signed, uint32(len(tail)))
	return attest.Evidence{TEE: tee, Raw: append(raw, tail...)}, nil
}

func (q *quoter) header() []byte {
	h := make([]byte, 48, 48+tdReportSize+4)
	binary.LittleEndian.PutUint16(h, q.headerVers)
	binary.LittleEndian.PutUint16(h[2:], keyTypeECDSA256)
	if q.headerVers == 4 {
		binary.LittleEndian.PutUint32(h[4:], teeTypeTDX)
	} else {
		binary.LittleEndian.PutUint16(h[8:], qeSVN)
		binary.LittleEndian.PutUint16(h[10:], pceSVN)
	}
	copy(h[12:], qeVendorID)
	return h
}

func (q *quoter) body(m Measurement, b attest.Binding, debug bool) []byte {
	files := attest.FilesDigest(m.Files)
	if q.headerVers == 4 {
		attributes := uint64(tdFlags)
		if debug {
			attributes |= tdFlagDebug
		}
		return tdReport(m, files, b, attributes)
	}
	flags := uint64(programFlags)
	if debug {
		flags |= flagDebug
	}
	return sgxReport(reportFields{
		unique: [32]byte(m.Program), signer: [32]byte(m.Agent), flags: flags, config: files[:], data: b[:],
	})
}

// signatureData encodes what follows the length of the signature data: in
// version 4 the QE report and the chain are nested in certification data.
func (q *quoter) signatureData(signature, chain []byte) []byte {
	le := binary.LittleEndian
	qe := slices.Concat(q.report, q.reportSig)
	qe = append(le.AppendUint16(qe, uint16(len(q.authData))), q.authData...)
	qe = le.AppendUint32(le.AppendUint16(qe, certTypeChain), uint32(len(chain)))
	qe = append(qe, chain...)
	out := slices.Concat(signature, q.public)
	if q.headerVers == 4 {
		out = le.AppendUint32(le.AppendUint16(out, certTypeQE), uint32(len(qe)))
	}
	return append(out, qe...)
}
