package store

import (
	"context"
	"crypto/sha256"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Blobs is a set of byte strings by key that are not held in memory. They are
// sealed and bound to their key. What Put returns identifies the bytes: keep it
// in a record of a Table, in the same Update, and Read finds out whether the
// engine still has these and no others. Make them once; Blobs holds no data.
type Blobs struct {
	name string
}

// pendingBlob is a blob to be put, or to be deleted if data is nil.
type pendingBlob struct{ packed []byte }

// NewBlobs names a set. Names have 1 to 64 bytes.
func NewBlobs(name string) Blobs {
	mustName(name)
	return Blobs{name: name}
}

// Put sets the bytes under key and returns their SHA-256. A key has 1 to 512
// bytes. They become readable when the Update has returned. The error is STO-009
// over a limit of the store; it also fails the transaction.
func (b Blobs) Put(tx *Tx, key string, data []byte) (sum [32]byte, err error) {
	tx.checkWritable()
	if key == "" || len(key) > maxKey {
		return sum, tx.fail(problem.New("STO-009", "blobs %s: a key has 1 to %d bytes, got %d", b.name, maxKey, len(key)))
	}
	if len(data) > tx.store.maxValue {
		return sum, tx.fail(problem.New("STO-009", "a blob of %s has at most %d bytes, got %d", b.name, tx.store.maxValue, len(data)))
	}
	tx.blobs[tx.store.codec.blobKey(b.name, key)] = pendingBlob{packed: packLarge(data)}
	tx.bytes += len(data)
	return sha256.Sum256(data), nil
}

// Delete removes key; deleting what is absent is no error.
func (b Blobs) Delete(tx *Tx, key string) {
	tx.checkWritable()
	tx.blobs[tx.store.codec.blobKey(b.name, key)] = pendingBlob{}
}

// Read returns the durable bytes under key, which must have the SHA-256 sum. If
// they are missing, altered, or by now replaced by an Update, it is STO-006:
// look at the record that names them again.
func (b Blobs) Read(ctx context.Context, s *Store, key string, sum [32]byte) ([]byte, error) {
	release, err := s.use()
	if err != nil {
		return nil, err
	}
	defer release()
	name := s.codec.blobKey(b.name, key)
	found, err := s.engine.Range(ctx, name, name+"\x00", 1)
	if err != nil {
		return nil, unusable(err, "reading a blob of %s", b.name)
	}
	if len(found) != 1 {
		return nil, problem.New("STO-006", "a blob of %s is missing", b.name)
	}
	_, packed, err := s.codec.open(name, found[0].Value)
	if err != nil {
		return nil, problem.New("STO-006", "a blob of %s %v", b.name, err)
	}
	data, err := unpack(packed, s.maxValue)
	if err != nil {
		return nil, problem.New("STO-005", "a blob of %s: %v", b.name, err)
	}
	if sha256.Sum256(data) != sum {
		return nil, problem.New("STO-006", "a blob of %s is another than its record says", b.name)
	}
	return data, nil
}
