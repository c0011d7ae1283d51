package inject

import (
	"encoding/json"
	"fmt"

	jsonpatch "gomodules.xyz/jsonpatch/v2"
)

// Patch returns the JSON patch (RFC 6902) that turns the JSON document before
// into after: what an AdmissionResponse carries. Without a difference it is "[]".
func Patch(before, after []byte) ([]byte, error) {
	operations, err := jsonpatch.CreatePatch(before, after)
	if err != nil {
		return nil, fmt.Errorf("comparing two pods: %w", err)
	}
	if operations == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(operations)
}
