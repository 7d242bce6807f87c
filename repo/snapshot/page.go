package snapshot

import (
	"fmt"
	"math"
	"unsafe"

	"packhold/crypt"
)

// The first item of every blob that this package encodes says what it is, so that a valid blob in a wrong role is refused.
const (
	tagLeaf    = 1
	tagBranch  = 2
	tagExtents = 3
	tagXAttrs  = 4
)

// The keys of a node's map. The numbers are part of format 1.
const (
	keyName = iota + 1
	keyType
	keyMode
	keyUID
	keyGID
	keyUser
	keyGroup
	keySize
	keyMTime
	keyCTime
	keyBTime
	keyATime
	keyInode
	keyDevice
	keyLinks
	keyTarget
	keyRdev
	keyFlags
	keyXAttrs
	keyXAttrBlob
	keyInline
	keyExtents
	keyExtentBlobs // 23, the last key of one byte
	keySubtree
	keyStreams
	lastKey = keyStreams
)

// Child is an entry of a branch page.
type Child struct {
	First string // the first name below
	ID    crypt.ID
	Count uint64 // nodes below, at least 1
}

// Page is a part of a directory: a leaf, which has nodes, or a branch, which has children. An empty directory is one
// leaf without nodes.
type Page struct {
	Nodes    []Node
	Children []Child
}

// DecodePage is the inverse of Page.Encode. It accepts exactly what Encode returns, and every node of the page is valid;
// errors wrap ErrMalformed. The page does not keep plain.
func DecodePage(plain []byte) (*Page, error) {
	p, err := decodePage(plain)
	if err != nil {
		return nil, fmt.Errorf("decoding page: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("decoding page: %w", err)
	}
	return p, nil
}

// Encode returns the bytes of p. It refuses, with an error that wraps ErrMalformed, a page that has both nodes and
// children, invalid ones, more than MaxPageEntries, names that do not ascend, or more than MaxPage bytes.
func (p *Page) Encode() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("encoding page: %w", err)
	}
	b := p.encode()
	if len(b) > MaxPage {
		return nil, fmt.Errorf("encoding page: %w", malformed("%d bytes, the limit is %d", len(b), MaxPage))
	}
	return b, nil
}

func (p *Page) check() error {
	if len(p.Children) > 0 && len(p.Nodes) > 0 {
		return malformed("nodes and children in one page")
	}
	if n := len(p.Children) + len(p.Nodes); n > MaxPageEntries {
		return malformed("%d entries, the limit is %d", n, MaxPageEntries)
	}
	for i := range p.Nodes {
		if err := p.Nodes[i].Validate(); err != nil {
			return err
		}
		if i > 0 && p.Nodes[i].Name <= p.Nodes[i-1].Name {
			return malformed("name %s out of order", quote(p.Nodes[i].Name))
		}
	}
	_, err := checkChildren(p.Children)
	return err
}

// checkChildren returns the number of nodes below.
func checkChildren(children []Child) (count uint64, err error) {
	for i := range children {
		c := &children[i]
		if err := CheckName(c.First); err != nil {
			return 0, err
		}
		switch {
		case i > 0 && c.First <= children[i-1].First:
			return 0, malformed("name %s out of order", quote(c.First))
		case c.ID.IsZero():
			return 0, malformed("page at %s without an ID", quote(c.First))
		case c.Count == 0:
			return 0, malformed("page at %s without nodes", quote(c.First))
		case c.Count > math.MaxUint64-count:
			return 0, malformed("the counts overflow")
		}
		count += c.Count
	}
	return count, nil
}

// encode is Encode without the checks: encode(decodePage(b)) == b.
func (p *Page) encode() []byte {
	b := make([]byte, maxPageHead, maxPageHead+128*len(p.Nodes)+64*len(p.Children))
	for i := range p.Nodes {
		b = appendNode(b, &p.Nodes[i])
	}
	for i := range p.Children {
		b = appendChild(b, &p.Children[i])
	}
	if len(p.Children) > 0 {
		return setPageHead(b, tagBranch, len(p.Children))
	}
	return setPageHead(b, tagLeaf, len(p.Nodes))
}

// maxPageHead is the longest head of a page: array of 2, tag, array of at most 65,535.
const maxPageHead = 5

// setPageHead writes the head into the first maxPageHead bytes of b, whose entries follow, and returns the page, which
// starts where the head does. So entries are counted while they are encoded, and not moved.
func setPageHead(b []byte, tag byte, n int) []byte {
	var head [maxPageHead]byte
	h := appendHead(append(head[:0], majorArray<<5|2, tag), majorArray, uint64(n))
	b = b[maxPageHead-len(h):]
	copy(b, h)
	return b
}

func appendChild(b []byte, c *Child) []byte {
	b = appendString(append(b, majorArray<<5|3), c.First)
	return appendHead(appendID(b, &c.ID), majorUint, c.Count)
}

// decodePage is DecodePage without the validity of single nodes, so that a reader can report a bad node and go on with
// its siblings. The names of nodes are in order; children are wholly checked.
func decodePage(plain []byte) (*Page, error) {
	if len(plain) > MaxPage {
		return nil, malformed("page of %d bytes, the limit is %d", len(plain), MaxPage)
	}
	d := &decoder{s: string(plain)}
	d.array(2, 2)
	p := &Page{}
	switch tag := d.head(majorUint); tag {
	case tagLeaf:
		p.Nodes = make([]Node, d.array(0, MaxPageEntries))
		for i := range p.Nodes {
			if d.node(&p.Nodes[i], len(p.Nodes)-i); d.err != nil {
				return nil, d.err
			}
			if i > 0 && p.Nodes[i].Name <= p.Nodes[i-1].Name {
				return nil, malformed("name %s out of order", quote(p.Nodes[i].Name))
			}
		}
	case tagBranch:
		p.Children = make([]Child, d.array(1, MaxPageEntries))
		for i := range p.Children {
			c := &p.Children[i]
			d.array(3, 3)
			c.First = d.string(1)
			d.nonzeroID(&c.ID)
			if c.Count = d.nonzero(math.MaxUint64); d.err != nil {
				return nil, d.err
			}
		}
		if _, err := checkChildren(p.Children); err != nil {
			return nil, err
		}
	default:
		d.fail("a page has tag %d or %d, not %d", tagLeaf, tagBranch, tag)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return p, nil
}

// memory returns about how many bytes p holds, plain being its encoded size.
func (p *Page) memory(plain int) int64 {
	m := int64(plain) + int64(len(p.Nodes))*int64(unsafe.Sizeof(Node{})) + int64(len(p.Children))*int64(unsafe.Sizeof(Child{}))
	for i := range p.Nodes {
		n := &p.Nodes[i]
		m += int64(len(n.Extents))*int64(unsafe.Sizeof(Extent{})) + int64(len(n.XAttrs))*int64(unsafe.Sizeof(XAttr{})) + int64(len(n.Inline))
		for j := range n.Streams {
			m += int64(unsafe.Sizeof(Stream{})) + int64(len(n.Streams[j].Extents))*int64(unsafe.Sizeof(Extent{}))
		}
	}
	return m
}

// appendNode appends the map of n: keys ascending, fields of zero value left out.
func appendNode(b []byte, n *Node) []byte {
	head := len(b)
	b = append(b, 0)
	pairs := 0
	if n.Name != "" {
		b = appendString(append(b, keyName), n.Name)
		pairs++
	}
	for _, f := range [...]struct {
		key byte
		v   uint64
	}{{keyType, uint64(n.Type)}, {keyMode, uint64(n.Mode)}, {keyUID, uint64(n.UID)}, {keyGID, uint64(n.GID)}} {
		if f.v != 0 {
			b = appendHead(append(b, f.key), majorUint, f.v)
			pairs++
		}
	}
	if n.User != "" {
		b = appendString(append(b, keyUser), n.User)
		pairs++
	}
	if n.Group != "" {
		b = appendString(append(b, keyGroup), n.Group)
		pairs++
	}
	if n.Size != 0 {
		b = appendHead(append(b, keySize), majorUint, n.Size)
		pairs++
	}
	for i, t := range [...]*Time{&n.MTime, &n.CTime, &n.BTime, &n.ATime} {
		if *t != (Time{}) {
			b = appendTime(append(b, keyMTime+byte(i)), *t)
			pairs++
		}
	}
	for i, v := range [...]uint64{n.Inode, uint64(n.Device), uint64(n.Links)} {
		if v != 0 {
			b = appendHead(append(b, keyInode+byte(i)), majorUint, v)
			pairs++
		}
	}
	if n.Target != "" {
		b = appendString(append(b, keyTarget), n.Target)
		pairs++
	}
	if n.Rdev != 0 {
		b = appendHead(append(b, keyRdev), majorUint, n.Rdev)
		pairs++
	}
	if n.Flags != 0 {
		b = appendHead(append(b, keyFlags), majorUint, uint64(n.Flags))
		pairs++
	}
	if len(n.XAttrs) > 0 {
		b = appendXAttrs(append(b, keyXAttrs), n.XAttrs)
		pairs++
	}
	if !n.XAttrBlob.IsZero() {
		b = appendID(append(b, keyXAttrBlob), &n.XAttrBlob)
		pairs++
	}
	if len(n.Inline) > 0 {
		b = appendBytes(append(b, keyInline), n.Inline)
		pairs++
	}
	if len(n.Extents) > 0 {
		b = appendExtents(append(b, keyExtents), n.Extents)
		pairs++
	}
	if len(n.ExtentBlobs) > 0 {
		b = appendHead(append(b, keyExtentBlobs), majorArray, uint64(len(n.ExtentBlobs)))
		for i := range n.ExtentBlobs {
			b = appendID(b, &n.ExtentBlobs[i])
		}
		pairs++
	}
	if !n.Subtree.IsZero() {
		b = appendID(append(b, majorUint<<5|24, keySubtree), &n.Subtree)
		pairs++
	}
	if len(n.Streams) > 0 {
		b = appendHead(append(b, majorUint<<5|24, keyStreams), majorArray, uint64(len(n.Streams)))
		for i := range n.Streams {
			b = appendString(append(b, majorArray<<5|2), n.Streams[i].Name)
			b = appendExtents(b, n.Streams[i].Extents)
		}
		pairs++
	}
	if pairs < 24 {
		b[head] = majorMap<<5 | byte(pairs)
		return b
	}
	// No valid node has so many fields, but the law holds for those that decodePage lets pass.
	b = append(b, 0)
	copy(b[head+2:], b[head+1:])
	b[head], b[head+1] = majorMap<<5|24, byte(pairs)
	return b
}

func appendXAttrs(b []byte, xattrs []XAttr) []byte {
	b = appendHead(b, majorArray, uint64(len(xattrs)))
	for i := range xattrs {
		b = appendString(append(b, majorArray<<5|2), xattrs[i].Name)
		b = appendBytes(b, xattrs[i].Value)
	}
	return b
}

func appendExtents(b []byte, extents []Extent) []byte {
	b = appendHead(b, majorArray, uint64(len(extents)))
	for i := range extents {
		e := &extents[i]
		if e.Kind == Data {
			b = appendHead(append(b, majorArray<<5|3, byte(Data)), majorUint, e.Length)
			b = appendID(b, &e.ID)
		} else {
			b = appendHead(append(b, majorArray<<5|2, byte(e.Kind)), majorUint, e.Length)
		}
	}
	return b
}

// node reads a node into n, which is zero. It is the first of left nodes.
func (d *decoder) node(n *Node, left int) {
	pairs := d.items(majorMap, 0, lastKey)
	last := uint64(0)
	for range pairs {
		var key uint64
		if d.off < len(d.s) && d.s[d.off] < 24 { // head by hand: half of all items are keys
			key = uint64(d.s[d.off])
			d.off++
		} else {
			key = d.head(majorUint)
		}
		if key <= last { // after an error it is 0
			d.fail("key %d out of order", key)
			return
		}
		last = key
		switch key {
		case keyName:
			n.Name = d.string(1)
		case keyType:
			n.Type = Type(d.nonzero(math.MaxUint8))
		case keyMode:
			n.Mode = d.uint32()
		case keyUID:
			n.UID = d.uint32()
		case keyGID:
			n.GID = d.uint32()
		case keyUser:
			n.User = d.string(1)
		case keyGroup:
			n.Group = d.string(1)
		case keySize:
			n.Size = d.nonzero(math.MaxUint64)
		case keyMTime:
			n.MTime = d.time()
		case keyCTime:
			n.CTime = d.time()
		case keyBTime:
			n.BTime = d.time()
		case keyATime:
			n.ATime = d.time()
		case keyInode:
			n.Inode = d.nonzero(math.MaxUint64)
		case keyDevice:
			n.Device = d.uint32()
		case keyLinks:
			n.Links = d.uint32()
		case keyTarget:
			n.Target = d.string(1)
		case keyRdev:
			n.Rdev = d.nonzero(math.MaxUint64)
		case keyFlags:
			n.Flags = d.uint32()
		case keyXAttrs:
			n.XAttrs = d.xattrList(1, MaxXAttrInline) // each has a name of a byte at least
		case keyXAttrBlob:
			d.nonzeroID(&n.XAttrBlob)
		case keyInline:
			n.Inline = d.copied(1)
		case keyExtents:
			n.Extents = d.extentList(1, MaxExtents, left)
		case keyExtentBlobs:
			n.ExtentBlobs = make([]crypt.ID, d.array(1, MaxExtentBlobs))
			for i := range n.ExtentBlobs {
				if d.id(&n.ExtentBlobs[i]); d.err != nil {
					return
				}
			}
		case keySubtree:
			d.nonzeroID(&n.Subtree)
		case keyStreams:
			n.Streams = make([]Stream, d.array(1, MaxStreams))
			for i := range n.Streams {
				d.array(2, 2)
				n.Streams[i].Name = d.string(0)
				if n.Streams[i].Extents = d.extentList(0, MaxExtents, left); d.err != nil {
					return
				}
			}
		default:
			d.fail("unknown key %d", key)
		}
	}
}

// extentList reads low to high extents, nil for none. More is how many the page is likely to want beyond these.
func (d *decoder) extentList(low, high, more int) []Extent {
	n := d.array(low, high)
	if n == 0 {
		return nil
	}
	list := d.extents.take(n, min(more, d.rest()/3+1)) // no extent is shorter than 3 bytes
	for i := range list {
		e := &list[i]
		items := d.array(2, 3)
		kind := d.head(majorUint)
		e.Kind = ExtentKind(kind)
		if (kind != uint64(Data) || items != 3) && (kind != uint64(Hole) && kind != uint64(Zeros) || items != 2) {
			d.fail("extent of kind %d with %d items", kind, items)
		}
		e.Length = d.nonzero(math.MaxUint64)
		if e.Kind == Data {
			d.id(&e.ID)
		}
		if d.err != nil {
			return nil
		}
	}
	return list
}

// xattrList reads low to high extended attributes, nil for none.
func (d *decoder) xattrList(low, high int) []XAttr {
	n := d.array(low, high)
	if n == 0 {
		return nil
	}
	list := d.xattrs.take(n, min(64, d.rest()/3+1)) // no attribute is shorter than 3 bytes
	for i := range list {
		d.array(2, 2)
		list[i].Name = d.string(0)
		if list[i].Value = d.copied(0); d.err != nil {
			return nil
		}
	}
	return list
}
