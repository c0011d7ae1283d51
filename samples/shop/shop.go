// Package shop carries the sample shop's programs that are run from source, so
// that `ashlar dev up` works from any directory. It holds no code of Ashlar.
package shop

import "embed"

// Files are the Python and JavaScript services and the catalog.
//
//go:embed web/web.py cart/cart.mjs catalog/catalog.json
var Files embed.FS
