package store

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// A log record or blob is packed before it is sealed: one byte for the form, then the
// data itself, or its length (unsigned varint) and the data deflated (RFC 1951).
const (
	packedPlain    = 0
	packedDeflated = 1

	packFrom      = 512      // bytes: less is not worth the time
	packLargeFrom = 32 << 10 // bytes of what is mostly certificates and hashes
)

var errPacked = errors.New("it is not packed as it should be")

var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(io.Discard, flate.BestSpeed)
	if err != nil {
		panic(err) // only for a level that does not exist
	}
	return w
}}

// pack makes the bytes of a log record to be sealed. Logs and blobs hold no secret value,
// so the size that shows after compression says nothing worth hiding.
func pack(data []byte) []byte {
	plain := append([]byte{packedPlain}, data...)
	if len(data) < packFrom {
		return plain
	}
	var out bytes.Buffer
	out.WriteByte(packedDeflated)
	out.Write(binary.AppendUvarint(nil, uint64(len(data))))
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&out)
	_, err := w.Write(data)
	if cerr := w.Close(); err != nil || cerr != nil || out.Len() >= len(plain) {
		return plain
	}
	return out.Bytes()
}

// packLarge is pack for bytes that hardly compress: small ones stay as they
// are.
func packLarge(data []byte) []byte {
	if len(data) < packLargeFrom {
		return append([]byte{packedPlain}, data...)
	}
	return pack(data)
}

// unpack returns the data of a packed log record or blob of at most limit bytes.
func unpack(b []byte, limit int) ([]byte, error) {
	if len(b) == 0 {
		return nil, errPacked
	}
	form, b := b[0], b[1:]
	if form == packedPlain {
		return b, nil
	}
	size, n := binary.Uvarint(b)
	if form != packedDeflated || n <= 0 || size > uint64(limit) {
		return nil, errPacked
	}
	data := make([]byte, size)
	r := flate.NewReader(bytes.NewReader(b[n:]))
	defer r.Close()
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, errPacked
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, errPacked
	}
	return data, nil
}
