package issuer

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/azure"
	"github.com/ashlar-mesh/ashlar/attest/tpm"
)

// The paravisor's report holds the hardware's report behind 32 bytes, and at
// 1224 which hardware it is (openhcl_attestation_protocol of OpenHCL).
const (
	paravisorHardware = 32
	paravisorKind     = 1224
	paravisorMinimum  = 1236
)

var paravisorKinds = map[uint32]attest.TEE{2: attest.SNPAzure, 4: attest.TDXAzure}

// azureVM makes evidence in a confidential VM of Azure, with the vTPM of the
// paravisor.
type azureVM struct {
	machine Machine
	tee     attest.TEE
	gate    gate
}

func probeAzure(_ context.Context, m Machine) (attest.Issuer, error) {
	a := &azureVM{machine: m, gate: newGate()}
	err := m.withTPM(func(t transport.TPM) error {
		report, err := readNV(t, azure.ReportIndex)
		if err != nil {
			return err
		}
		a.tee, err = paravisorTEE(report)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func paravisorTEE(report []byte) (attest.TEE, error) {
	if len(report) < paravisorMinimum || !bytes.HasPrefix(report, []byte("HCLA")) {
		return "", fmt.Errorf("NV index %#x holds no report of Azure's paravisor", azure.ReportIndex)
	}
	kind := binary.LittleEndian.Uint32(report[paravisorKind:])
	tee, known := paravisorKinds[kind]
	if !known {
		return "", fmt.Errorf("the report of Azure's paravisor is of hardware %d, wanted 2 (SEV-SNP) or 4 (TDX)", kind)
	}
	return tee, nil
}

// TEE implements attest.Issuer.
func (a *azureVM) TEE() attest.TEE { return a.tee }

// Issue implements attest.Issuer.
func (a *azureVM) Issue(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	return issueTPM(ctx, a.gate, a.machine, a.tee, func(t transport.TPM) ([]byte, error) {
		var d azure.Document
		var err error
		if d.Report, err = readNV(t, azure.ReportIndex); err != nil {
			return nil, err
		}
		if tee, err := paravisorTEE(d.Report); err != nil {
			return nil, err
		} else if tee != a.tee {
			return nil, fmt.Errorf("the paravisor's report became one of %s", tee)
		}
		if d.Quote, err = persistentQuote(t, b); err != nil {
			return nil, err
		}
		if a.tee == attest.TDXAzure {
			if d.TDQuote, err = a.tdQuote(ctx, d.Report[paravisorHardware:paravisorHardware+tdReportSize]); err != nil {
				return nil, err
			}
		}
		return azure.Encode(d)
	})
}

// persistentQuote quotes with the key that the paravisor's report names.
func persistentQuote(t transport.TPM, b attest.Binding) (tpm.Quote, error) {
	handle := tpm2.TPMHandle(azure.KeyHandle)
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(t)
	if err != nil {
		return tpm.Quote{}, fmt.Errorf("looking for the key at %#x: %w", azure.KeyHandle, err)
	}
	return quote(t, attestationKey{tpm2.NamedHandle{Handle: handle, Name: rsp.Name}, rsp.OutPublic.Bytes()}, b)
}

// The service on the VM's own host that has a TDREPORT made into a quote.
const (
	metadataURL    = "http://169.254.169.254/acc/tdquote"
	quoteDeadline  = 20 * time.Second
	maxQuoteAnswer = 128 << 10 // bytes of JSON around attest.MaxEvidence in base64
)

func (a *azureVM) tdQuote(ctx context.Context, report []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, quoteDeadline)
	defer cancel()
	question, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(report)})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, metadataURL, bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Metadata", "true")
	response, err := a.machine.Metadata.RoundTrip(request) // follows no redirect
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", metadataURL, err)
	}
	defer response.Body.Close() //nolint:errcheck // read whole
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxQuoteAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", metadataURL, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s: %.200q", metadataURL, response.Status, answer)
	}
	return parseTDQuote(answer)
}

// parseTDQuote returns the quote in an answer of the metadata service.
func parseTDQuote(answer []byte) ([]byte, error) {
	var a struct {
		Quote string `json:"quote"`
	}
	if len(answer) > maxQuoteAnswer {
		return nil, fmt.Errorf("the metadata service answered more than %d bytes", maxQuoteAnswer)
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, fmt.Errorf("reading the answer of the metadata service: %w", err)
	}
	quote, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(a.Quote, "="))
	if err != nil || len(quote) == 0 {
		return nil, errors.New("the metadata service's answer holds no quote")
	}
	return quote, nil
}
