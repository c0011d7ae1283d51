package transparency

import (
	"encoding/binary"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const (
	// TileHeight is the number of tree levels in a tile (c2sp.org/tlog-tiles).
	TileHeight = 8
	// TileWidth is the number of hashes, or entries, of a full tile.
	TileWidth = 1 << TileHeight
	// EntryLevel is the level of the tiles that hold entries.
	EntryLevel = -1
	// MaxEntry is the size limit of an entry, in bytes.
	MaxEntry = 1<<16 - 1

	maxLevel = 63 / TileHeight
)

// Tile names a tile: Width hashes of 32 bytes at tree level 8 × Level, or
// entries if Level is EntryLevel, from place 256 × Index on.
type Tile struct {
	Level int    // -1 to 7
	Index uint64 // below 2^54
	Width int    // 1 to 256
}

// Path returns where the tile is served, below the log's prefix:
// "tile/0/x001/x234/067", "tile/entries/000.p/7".
func (t Tile) Path() string {
	path := tlog.Tile{H: TileHeight, L: t.Level, N: int64(t.Index), W: t.Width}.Path()
	if t.Level == EntryLevel {
		return strings.Replace(path, "tile/8/data/", "tile/entries/", 1)
	}
	return strings.Replace(path, "tile/8/", "tile/", 1)
}

// ParseTilePath reads the path of a tile in its only form. LOG-007.
func ParseTilePath(path string) (Tile, error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(rest) > 100 || strings.HasPrefix(rest, "data/") {
		return Tile{}, problem.New("LOG-007", "%.100q", path)
	}
	if n, entries := strings.CutPrefix(rest, "entries/"); entries {
		rest = "data/" + n
	}
	parsed, err := tlog.ParseTilePath("tile/8/" + rest)
	if err != nil || parsed.L > maxLevel || parsed.N >= 1<<54 {
		return Tile{}, problem.New("LOG-007", "%.100q", path)
	}
	t := Tile{Level: parsed.L, Index: uint64(parsed.N), Width: parsed.W}
	if t.Path() != path {
		return Tile{}, problem.New("LOG-007", "%.100q", path)
	}
	return t, nil
}

// End returns the first entry after those that the tile covers.
func (t Tile) End() uint64 { return (t.Index*TileWidth + uint64(t.Width)) << t.shift() }

func (t Tile) shift() int { return TileHeight * max(t.Level, 0) }

// TileAt returns the tile of a log of size entries that covers entry index at a
// level. A level above the tree gives a tile of width 0, which does not exist.
func TileAt(level int, index, size uint64) Tile {
	t := Tile{Level: level}
	t.Index = index >> (t.shift() + TileHeight)
	first := t.Index * TileWidth
	if complete := size >> t.shift(); complete > first {
		t.Width = int(min(complete-first, TileWidth))
	}
	return t
}

// AppendEntry appends an entry as it stands in a tile of entries: its length in
// two bytes, big-endian, and its bytes.
func AppendEntry(bundle, entry []byte) ([]byte, error) {
	if len(entry) > MaxEntry {
		return nil, problem.New("LOG-008", "an entry has %d bytes, limit %d", len(entry), MaxEntry)
	}
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(entry))), entry...), nil
}

// ParseEntries returns the entries of a tile that has width of them. LOG-008.
func ParseEntries(bundle []byte, width int) ([][]byte, error) {
	if width < 1 || width > TileWidth {
		return nil, problem.New("LOG-008", "a tile of %d entries", width)
	}
	entries := make([][]byte, 0, width)
	for len(entries) < width {
		if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
			return nil, problem.New("LOG-008", "it ends in entry %d of %d", len(entries), width)
		}
		end := 2 + int(binary.BigEndian.Uint16(bundle))
		entries = append(entries, bundle[2:end:end])
		bundle = bundle[end:]
	}
	if len(bundle) != 0 {
		return nil, problem.New("LOG-008", "%d bytes after %d entries", len(bundle), width)
	}
	return entries, nil
}
