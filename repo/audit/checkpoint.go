package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"packhold/crypt"
)

// Head is a log at some size: what an anchor outside the repository keeps.
type Head struct {
	Tag  string
	Size uint64
	Root [32]byte
}

// checkpoint is a host's statement of what its log is.
type checkpoint struct {
	repo     crypt.RepoID
	host     crypt.HostID
	nonce    [32]byte // makes the tag, with the host
	tree     tree
	time     time.Time
	previous *Head // the log that this one continues
}

// maxCheckpoint is the limit of an encoded checkpoint, in bytes: an edge of 53 hashes is 2,385.
const maxCheckpoint = 4 << 10

// logTag names a log: the first 16 bytes of SHA-256("packhold/1/audit" | host id | nonce), so that a log belongs to its host by its very
// name, and the storage cannot tell whose it is.
func logTag(host crypt.HostID, nonce [32]byte) string {
	h := sha256.New()
	h.Write([]byte("packhold/1/audit"))
	h.Write(host[:])
	h.Write(nonce[:])
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (c *checkpoint) tag() string { return logTag(c.host, c.nonce) }

func (c *checkpoint) head() Head { return Head{c.tag(), c.tree.size, c.tree.root()} }

// checkpointName is the name of a log's checkpoint at a size.
func checkpointName(tag string, size uint64) string {
	return "audit/" + tag + "/checkpoint/" + strconv.FormatUint(size, 10)
}

// encode returns the text of c: the body of a c2sp.org/tlog-checkpoint note, whose extension lines are ours.
func (c *checkpoint) encode() []byte {
	b := fmt.Appendf(nil, "packhold/1/audit/%x/%s\n%d\n%v\nedge", c.repo, c.tag(), c.tree.size, c.tree.root())
	for _, h := range c.tree.edge {
		b = fmt.Appendf(b, " %v", h)
	}
	b = fmt.Appendf(b, "\nhost %v\nnonce %x\n", c.host, c.nonce)
	if p := c.previous; p != nil {
		b = fmt.Appendf(b, "previous %s %d %v\n", p.Tag, p.Size, tlog.Hash(p.Root))
	}
	return fmt.Appendf(b, "time %s\n", c.time.UTC().Format(timeLayout))
}

// parseCheckpoint is the inverse of encode: it refuses every text that encode would not have made. It checks no signature.
func parseCheckpoint(text []byte) (*checkpoint, error) {
	c, err := decodeCheckpoint(text)
	if err != nil {
		return nil, fmt.Errorf("parsing audit checkpoint: %w", err)
	}
	return c, nil
}

func decodeCheckpoint(text []byte) (*checkpoint, error) {
	if len(text) > maxCheckpoint {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(text), maxCheckpoint)
	}
	bad := errors.New("not in canonical form")
	lines := strings.Split(string(text), "\n")
	if len(lines) != 8 && len(lines) != 9 {
		return nil, bad
	}
	c := new(checkpoint)
	origin := strings.Split(lines[0], "/")
	size, err := parseSize(lines[1])
	if err != nil || len(origin) != 5 || !unhex(c.repo[:], origin[3]) {
		return nil, bad
	}
	c.tree.size = size
	words := strings.Split(lines[3], " ")
	if len(words) != 1+bits.OnesCount64(size) {
		return nil, bad
	}
	for _, w := range words[1:] {
		h, err := tlog.ParseHash(w)
		if err != nil {
			return nil, bad
		}
		c.tree.edge = append(c.tree.edge, h)
	}
	if !unhex(c.host[:], strings.TrimPrefix(lines[4], "host ")) || !unhex(c.nonce[:], strings.TrimPrefix(lines[5], "nonce ")) {
		return nil, bad
	}
	if len(lines) == 9 {
		p := strings.Split(lines[6], " ")
		if len(p) != 4 {
			return nil, bad
		}
		size, err := parseSize(p[2])
		root, err2 := tlog.ParseHash(p[3])
		if err != nil || err2 != nil || size == 0 || !unhex(make([]byte, 16), p[1]) {
			return nil, bad
		}
		c.previous = &Head{p[1], size, root}
	}
	if c.time, err = time.Parse(timeLayout, strings.TrimPrefix(lines[len(lines)-2], "time ")); err != nil {
		return nil, bad
	}
	// Wrong roots, tags, words and forms of the same number all show here.
	if string(c.encode()) != string(text) {
		return nil, bad
	}
	return c, nil
}

func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n > maxSize {
		err = strconv.ErrRange
	}
	return n, err
}

// unhex decodes lower-case hexadecimal digits into all of dst.
func unhex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}
