package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"packhold/crypt"
)

// Getter reads blobs.
//
// Get returns the whole plaintext whose crypt.Sum is id, never other bytes. This package neither changes nor keeps them.
// A Getter that records the IDs it is asked for sees every page and every extent blob that a walk reads.
type Getter interface {
	Get(ctx context.Context, id crypt.ID) ([]byte, error)
}

// maxLoaded is how many extents Extents returns: 200 MiB of them, about 3 TiB of 0.7 MiB chunks.
const maxLoaded = 1 << 22

// EncodeExtents returns the plaintext of an extent blob of 1 to MaxBlobExtents valid extents.
func EncodeExtents(extents []Extent) ([]byte, error) {
	if len(extents) == 0 || len(extents) > MaxBlobExtents {
		return nil, fmt.Errorf("encoding extents: %w", malformed("%d extents, want 1 to %d", len(extents), MaxBlobExtents))
	}
	if _, err := checkExtents(extents); err != nil {
		return nil, fmt.Errorf("encoding extents: %w", err)
	}
	b := make([]byte, 0, 8+48*len(extents))
	return appendExtents(append(b, majorArray<<5|2, tagExtents), extents), nil
}

// DecodeExtents is the inverse of EncodeExtents. Errors wrap ErrMalformed.
func DecodeExtents(plain []byte) ([]Extent, error) {
	if len(plain) > MaxBlob {
		return nil, fmt.Errorf("decoding extents: %w", malformed("%d bytes, the limit is %d", len(plain), MaxBlob))
	}
	d := &decoder{s: string(plain)}
	d.tag(tagExtents)
	extents := d.extentList(1, MaxBlobExtents, 0)
	err := d.end()
	if err == nil {
		_, err = checkExtents(extents)
	}
	if err != nil {
		return nil, fmt.Errorf("decoding extents: %w", err)
	}
	return extents, nil
}

// tag reads the head of a blob: an array of the tag and one more item.
func (d *decoder) tag(want uint64) {
	d.array(2, 2)
	if tag := d.head(majorUint); tag != want {
		d.fail("tag %d, want %d", tag, want)
	}
}

// EncodeXAttrs returns the plaintext of an xattr blob: attributes sorted by name, at most MaxBlob bytes encoded.
func EncodeXAttrs(xattrs []XAttr) ([]byte, error) {
	if len(xattrs) == 0 {
		return nil, fmt.Errorf("encoding extended attributes: %w", malformed("none"))
	}
	total, err := checkXAttrs(xattrs)
	if err != nil {
		return nil, fmt.Errorf("encoding extended attributes: %w", err)
	}
	b := make([]byte, 0, 8+total+11*len(xattrs))
	b = appendXAttrs(append(b, majorArray<<5|2, tagXAttrs), xattrs)
	if len(b) > MaxBlob {
		return nil, fmt.Errorf("encoding extended attributes: %w", malformed("%d bytes, the limit is %d", len(b), MaxBlob))
	}
	return b, nil
}

// DecodeXAttrs is the inverse of EncodeXAttrs. Errors wrap ErrMalformed.
func DecodeXAttrs(plain []byte) ([]XAttr, error) {
	if len(plain) > MaxBlob {
		return nil, fmt.Errorf("decoding extended attributes: %w", malformed("%d bytes, the limit is %d", len(plain), MaxBlob))
	}
	d := &decoder{s: string(plain)}
	d.tag(tagXAttrs)
	xattrs := d.xattrList(1, MaxXAttrs)
	err := d.end()
	if err == nil {
		_, err = checkXAttrs(xattrs)
	}
	if err != nil {
		return nil, fmt.Errorf("decoding extended attributes: %w", err)
	}
	return xattrs, nil
}

// Where the extents of one file are cut into blobs: where their IDs say so, so that bytes inserted into a huge file
// rewrite the extent blobs they touch and no others. The numbers are not part of the format, a reader takes any cut.
const (
	extentsLeast = 4096
	extentsMask  = 1<<13 - 1
)

// ExtentWriter collects the extents of one file, in order, and stores them in blobs once they are too many for a node.
// It holds one blob's extents (3 MiB). Calls must not overlap.
type ExtentWriter struct {
	put   func(plain []byte) (crypt.ID, error)
	open  []Extent
	blobs []crypt.ID
	err   error
}

// NewExtentWriter returns a writer that stores blobs with put. The bytes that put gets are its own.
func NewExtentWriter(put func(plain []byte) (crypt.ID, error)) *ExtentWriter {
	return &ExtentWriter{put: put}
}

// Add appends e. After an error every call returns it.
func (w *ExtentWriter) Add(e Extent) error {
	if w.err != nil {
		return w.err
	}
	if err := e.check(); err != nil {
		w.err = fmt.Errorf("adding extent: %w", err)
		return w.err
	}
	w.open = append(w.open, e)
	cut := e.Kind == Data && binary.LittleEndian.Uint64(e.ID[:8])&extentsMask == 0
	if len(w.open) >= extentsLeast && cut || len(w.open) == MaxBlobExtents {
		w.flush()
	}
	return w.err
}

func (w *ExtentWriter) flush() {
	plain, err := EncodeExtents(w.open)
	if err != nil {
		w.err = err
		return
	}
	id, err := w.put(plain)
	if err != nil {
		w.err = fmt.Errorf("storing extents: %w", err)
		return
	}
	w.blobs = append(w.blobs, id)
	w.open = w.open[:0]
}

// Finish sets n.Extents or n.ExtentBlobs to what was added, and the other to nil. It is the last call.
func (w *ExtentWriter) Finish(n *Node) error {
	if w.err != nil {
		return w.err
	}
	n.Extents, n.ExtentBlobs = nil, nil
	if len(w.blobs) == 0 && len(w.open) <= MaxExtents {
		n.Extents = w.open
		return nil
	}
	if len(w.open) > 0 {
		if w.flush(); w.err != nil {
			return w.err
		}
	}
	if len(w.blobs) > MaxExtentBlobs {
		return fmt.Errorf("storing extents: %w", malformed("%d blobs, the limit is %d", len(w.blobs), MaxExtentBlobs))
	}
	n.ExtentBlobs = w.blobs
	return nil
}

// EachExtent yields the extents of a file in order, those in blobs too, one blob at a time. The sum of their lengths is
// n.Size, or the last pair is an error. An inline file and a node that is not a file have none.
func EachExtent(ctx context.Context, g Getter, n *Node) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if len(n.ExtentBlobs) == 0 {
			for _, e := range n.Extents {
				if !yield(e, nil) {
					return
				}
			}
			return
		}
		left := n.Size
		for i, id := range n.ExtentBlobs {
			extents, err := loadExtents(ctx, g, id)
			if err != nil {
				yield(Extent{}, fmt.Errorf("reading extents of %s, blob %d, %v: %w", quote(n.Name), i, id, err))
				return
			}
			for _, e := range extents {
				if e.Length > left {
					yield(Extent{}, fmt.Errorf("reading extents of %s, blob %d, %v: %w", quote(n.Name), i, id,
						malformed("they exceed the size %d", n.Size)))
					return
				}
				left -= e.Length
				if !yield(e, nil) {
					return
				}
			}
		}
		if left != 0 {
			yield(Extent{}, fmt.Errorf("reading extents of %s: %w", quote(n.Name), malformed("they hold %d bytes, not %d", n.Size-left, n.Size)))
		}
	}
}

func loadExtents(ctx context.Context, g Getter, id crypt.ID) ([]Extent, error) {
	plain, err := g.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return DecodeExtents(plain)
}

// errTooMany is returned by Extents for files with more extents than memory should hold.
var errTooMany = errors.New("too many extents to hold in memory")

// Extents returns what EachExtent yields, up to 4,194,304 extents (200 MiB of memory); more is an error.
func Extents(ctx context.Context, g Getter, n *Node) ([]Extent, error) {
	return extentsUpTo(ctx, g, n, maxLoaded)
}

func extentsUpTo(ctx context.Context, g Getter, n *Node, most int) ([]Extent, error) {
	if len(n.ExtentBlobs) == 0 {
		return n.Extents, nil
	}
	var all []Extent
	for e, err := range EachExtent(ctx, g, n) {
		if err != nil {
			return nil, err
		}
		if len(all) == most {
			return nil, fmt.Errorf("reading extents of %s: %w", quote(n.Name), errTooMany)
		}
		all = append(all, e)
	}
	return all, nil
}

// XAttrs returns the extended attributes of n, inline or from their blob.
func XAttrs(ctx context.Context, g Getter, n *Node) ([]XAttr, error) {
	if n.XAttrBlob.IsZero() {
		return n.XAttrs, nil
	}
	plain, err := g.Get(ctx, n.XAttrBlob)
	if err != nil {
		return nil, fmt.Errorf("reading extended attributes of %s, blob %v: %w", quote(n.Name), n.XAttrBlob, err)
	}
	xattrs, err := DecodeXAttrs(plain)
	if err != nil {
		return nil, fmt.Errorf("reading extended attributes of %s, blob %v: %w", quote(n.Name), n.XAttrBlob, err)
	}
	return xattrs, nil
}

// Blobs yields the IDs of all blobs that n needs, but the pages of its subtree: the xattr blob, the extent blobs, and the
// data of extents, of those in the extent blobs and of streams. An ID may come more than once. After an error for an
// extent blob there is no more data of the file, but that of streams.
func Blobs(ctx context.Context, g Getter, n *Node) iter.Seq2[crypt.ID, error] {
	return func(yield func(crypt.ID, error) bool) {
		if !n.XAttrBlob.IsZero() && !yield(n.XAttrBlob, nil) {
			return
		}
		for _, id := range n.ExtentBlobs {
			if !yield(id, nil) {
				return
			}
		}
		for e, err := range EachExtent(ctx, g, n) {
			if (err != nil || e.Kind == Data) && !yield(e.ID, err) {
				return
			}
		}
		for _, s := range n.Streams {
			for _, e := range s.Extents {
				if e.Kind == Data && !yield(e.ID, nil) {
					return
				}
			}
		}
	}
}
