package fetch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/endorse"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// KDS is a source with the interface of AMD's key distribution service (AMD
// 57230, Versioned Chip Endorsement Key Certificate and KDS Interface), version 1.
type KDS struct{ client *Client }

// NewKDS returns the source at an address such as https://kdsintf.amd.com.
func NewKDS(c ClientConfig) (*KDS, error) {
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	if client.base.RawQuery != "" {
		return nil, fmt.Errorf("%.200q: the address has a query", client.name())
	}
	return &KDS{client}, nil
}

// Name implements Source.
func (k *KDS) Name() string { return k.client.name() }

// Fetch implements Source. A chip's certificate for a TCB never changes, so one
// that is at hand is not asked for: the service is slow to give many. It gives a
// provider's certificate (VLEK) to its provider alone, so for reports under one there is only the CRL.
func (k *KDS) Fetch(ctx context.Context, n endorse.Need, have attest.Endorsements) (attest.Endorsements, error) {
	if n.TEE != attest.SNP {
		return attest.Endorsements{}, nil
	}
	var items []attest.Endorsement
	var errs []error
	product := n.Product
	_, at := have.Get(attest.KindVCEK)
	switch {
	case n.TCB != nil && at:
		product = endorse.ProductOf(have)
	case n.TCB != nil:
		cert, of, err := k.vcek(ctx, n)
		if err == nil {
			items, product = append(items, cert), of
		}
		errs = append(errs, err)
	case n.Signer == "VLEK":
		errs = append(errs, problem.New("ATT-067", "AMD gives a provider's certificate (VLEK) to the provider alone: take it from the machine and import it"))
	default:
		errs = append(errs, problem.New("ATT-067", "the host masks the chip ID, so no certificate can be asked for: take it from the machine and import it"))
	}
	if product != "" {
		for kind, path := range map[string]string{attest.KindAMDChain: "cert_chain", attest.KindAMDCRL: "crl"} {
			r, err := k.client.get(ctx, k.client.base.JoinPath(strings.ToLower(n.Signer), "v1", product, path).String())
			if err != nil {
				errs = append(errs, err)
				continue
			}
			items = append(items, attest.Endorsement{Kind: kind, Body: r.body})
		}
	}
	return attest.NewEndorsements(items...), errors.Join(errs...)
}

// vcek asks for a chip's certificate. A report that does not say its product is
// of one of the first two.
func (k *KDS) vcek(ctx context.Context, n endorse.Need) (attest.Endorsement, string, error) {
	candidates := []string{n.Product}
	if n.Product == "" {
		candidates = []string{"Milan", "Genoa"}
	}
	var errs []error
	for _, product := range candidates {
		r, err := k.client.get(ctx, k.vcekURL(n, product))
		if err == nil {
			return attest.Endorsement{Kind: attest.KindVCEK, Body: r.body}, product, nil
		}
		errs = append(errs, err)
		if problem.CodeOf(err) != "ATT-067" {
			break
		}
	}
	return attest.Endorsement{}, "", errors.Join(errs...)
}

// vcekURL names a chip and its patch levels. On Turin the hardware ID has 8
// bytes, and there is one level more.
func (k *KDS) vcekURL(n endorse.Need, product string) string {
	level := func(v uint8) []string { return []string{strconv.Itoa(int(v))} }
	query := url.Values{"blSPL": level(n.TCB.Bootloader), "teeSPL": level(n.TCB.TEE), "snpSPL": level(n.TCB.SNP), "ucodeSPL": level(n.TCB.Microcode)}
	chip := n.ChipID
	if product == "Turin" {
		query["fmcSPL"], chip = level(n.TCB.FMC), chip[:8]
	}
	u := k.client.base.JoinPath("vcek/v1", product, hex.EncodeToString(chip))
	u.RawQuery = query.Encode()
	return u.String()
}
