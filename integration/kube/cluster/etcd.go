//go:build linux

package cluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
)

// page is how many keys are read from etcd at once.
const page = 100

// server is an etcd.
type server struct {
	client *http.Client
	url    string
}

// Raw calls f with each key of etcd and its value, as they are stored.
func (c *Cluster) Raw(ctx context.Context, f func(key string, value []byte)) error {
	return each(ctx, server{http.DefaultClient, etcd}, f)
}

func each(ctx context.Context, s server, f func(key string, value []byte)) error {
	from := []byte{0}
	for {
		kvs, err := s.scan(ctx, from)
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			f(string(kv.Key), kv.Value)
		}
		if len(kvs) < page {
			return nil
		}
		from = append(bytes.Clone(kvs[len(kvs)-1].Key), 0)
	}
}

type pair struct{ Key, Value []byte }

// scan reads one page by etcd's JSON gateway.
func (s server) scan(ctx context.Context, from []byte) ([]pair, error) {
	body, err := json.Marshal(map[string]any{"key": from, "range_end": base64.StdEncoding.EncodeToString([]byte{0}), "limit": page})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v3/kv/range", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reading etcd: %w", err)
	}
	defer resp.Body.Close()
	var out struct{ Kvs []pair }
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading etcd: %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return nil, fmt.Errorf("reading etcd: %w", err)
	}
	return out.Kvs, nil
}
