package coordinator

import "github.com/ashlar-mesh/ashlar/manifest"

// Witnesses returns the witnesses of the manifest in force, by name. They must
// not be changed.
func (c *Coordinator) Witnesses() map[string]manifest.Witness {
	if rev := c.current.Load(); rev.m != nil {
		return rev.m.Witnesses
	}
	return nil
}
