package etcd

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	dialTime      = 5 * time.Second
	aliveEvery    = 2 * time.Second // pings on a connection, and
	aliveTime     = 3 * time.Second // how long an answer may take
	requestTime   = 5 * time.Second // of one request
	maxCallSend   = 2 << 20         // bytes of one request; etcd takes 1.5 MiB by default
	maxCallAnswer = 64 << 20        // bytes of one answer
)

// Cluster is a connection to the etcd cluster of a deployment. It is safe for
// concurrent use.
type Cluster struct {
	// Scratch is the folder for the file of a backup that is being made, such as
	// the replica's own; "" is the system's for temporary files. It is set before
	// the Cluster is used.
	Scratch string

	client   *clientv3.Client
	location Location

	backups sync.Mutex
	folders []string // of backups that are being made; guarded by backups
}

// Dial connects to a cluster and finds out whether it answers; STO-030, STO-031 and
// STO-033.
func Dial(ctx context.Context, l Location) (*Cluster, error) {
	config, err := l.tls()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: l.urls(), TLS: config, DialTimeout: dialTime, DialKeepAliveTime: aliveEvery,
		DialKeepAliveTimeout: aliveTime, MaxCallSendMsgSize: maxCallSend, MaxCallRecvMsgSize: maxCallAnswer, Logger: zap.NewNop()})
	if err != nil {
		return nil, problem.Because(err, "STO-031", "%s", l)
	}
	c := &Cluster{client: client, location: l}
	bounded, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if _, err := client.Get(bounded, l.Prefix, clientv3.WithCountOnly()); err != nil {
		_ = client.Close() // nothing was done with it
		return nil, c.coded(err, "%s", l)
	}
	return c, nil
}

// Client is the connection, for what else replicas keep in the cluster.
func (c *Cluster) Client() *clientv3.Client { return c.client }

// Key is where something has its place below the prefix.
func (c *Cluster) Key(name string) string { return c.location.Prefix + name }

// Close ends the connection.
func (c *Cluster) Close() error { return c.client.Close() }
