package audit

import (
	"crypto/sha256"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Tiles hold 256 records or hashes, as in c2sp.org/tlog-tiles.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// tree is the right edge of an RFC 6962 tree: the hashes of its largest complete subtrees, the largest first. It is all that
// appending needs. There is one hash for every bit that is set in size.
type tree struct {
	size uint64
	edge []tlog.Hash
}

// clone returns a copy that may be pushed to.
func (t tree) clone() tree { return tree{t.size, append([]tlog.Hash(nil), t.edge...)} }

// push appends a leaf.
func (t *tree) push(h tlog.Hash) {
	for s := t.size; s&1 == 1; s >>= 1 {
		last := len(t.edge) - 1
		h = tlog.NodeHash(t.edge[last], h)
		t.edge = t.edge[:last]
	}
	t.edge = append(t.edge, h)
	t.size++
}

// root is tlog.TreeHash of the tree.
func (t tree) root() tlog.Hash {
	if len(t.edge) == 0 {
		return sha256.Sum256(nil)
	}
	h := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.edge[i], h)
	}
	return h
}

// dataTile is the tile that holds the last records of a log of size records, in its width at that size. size is not 0.
func dataTile(size uint64) tlog.Tile {
	n := (size - 1) / tileWidth
	return tlog.Tile{H: tileHeight, L: -1, N: int64(n), W: int(size - n*tileWidth)}
}

// The path of a data tile is tile/data/..., where tlog has tile/8/data/...: only hash tiles have a height.
const (
	dataPath     = "tile/data/"
	tlogDataPath = "tile/8/data/"
)

// tileName is the name of the object that holds a tile of a log.
func tileName(tag string, t tlog.Tile) string {
	path := t.Path()
	if rest, ok := strings.CutPrefix(path, tlogDataPath); ok {
		path = dataPath + rest
	}
	return "audit/" + tag + "/" + path
}

// parseTilePath is the inverse of tileName for what follows the tag. Only data tiles may be incomplete.
func parseTilePath(path string) (tlog.Tile, bool) {
	rest, data := strings.CutPrefix(path, dataPath)
	if data {
		path = tlogDataPath + rest
	} else if strings.HasPrefix(path, tlogDataPath) {
		return tlog.Tile{}, false
	}
	t, err := tlog.ParseTilePath(path)
	ok := err == nil && t.H == tileHeight && t.N < maxSize/tileWidth && (t.L < 0) == data && (data || t.W == tileWidth)
	return t, ok
}

// hashBody is the body of a hash tile.
func hashBody(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

// parseHashBody is the inverse of hashBody for a complete tile.
func parseHashBody(b []byte) ([]tlog.Hash, bool) {
	if len(b) != tileWidth*tlog.HashSize {
		return nil, false
	}
	hashes := make([]tlog.Hash, tileWidth)
	for i := range hashes {
		copy(hashes[i][:], b[i*tlog.HashSize:])
	}
	return hashes, true
}

// leaves returns the leaf hashes of records.
func leaves(lines [][]byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(lines))
	for i, line := range lines {
		hashes[i] = tlog.RecordHash(line)
	}
	return hashes
}

// subtree returns the root over hashes.
func subtree(hashes []tlog.Hash) tlog.Hash {
	var t tree
	for _, h := range hashes {
		t.push(h)
	}
	return t.root()
}
