// Package charts carries the Helm chart, so that the ashlar command installs the
// version that it was built with and needs no repository.
package charts

import "embed"

// Ashlar is the folder of the chart; its root is "ashlar".
//
//go:embed all:ashlar
var Ashlar embed.FS
