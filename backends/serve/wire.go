package serve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"
)

// Version 3 of the protocol (draft-ietf-secsh-filexfer-02), and the extensions of OpenSSH's PROTOCOL file.
const (
	version = 3

	// maxPacket is the most that one packet may hold, type and all, as in OpenSSH. More ends the session.
	maxPacket = 256 << 10

	// maxRead is the most that one request to read gets: what fits a packet beside its header.
	maxRead = maxPacket - 1024
)

// Types of packets.
const (
	typeInit          = 1
	typeVersion       = 2
	typeExtended      = 200
	typeStatus        = 101
	typeHandle        = 102
	typeData          = 103
	typeName          = 104
	typeAttrs         = 105
	typeExtendedReply = 201
)

// Codes of a status.
const (
	codeOK          = 0
	codeEOF         = 1
	codeNoSuchFile  = 2
	codeDenied      = 3
	codeFailure     = 4
	codeBadMessage  = 5
	codeUnsupported = 8
)

// Flags of an open request.
const (
	flagRead   = 1 << 0
	flagWrite  = 1 << 1
	flagAppend = 1 << 2
	flagCreate = 1 << 3
	flagTrunc  = 1 << 4
	flagExcl   = 1 << 5
)

// What attributes hold.
const (
	attrSize     = 1 << 0
	attrOwner    = 1 << 1
	attrMode     = 1 << 2
	attrTimes    = 1 << 3
	attrExtended = 1 << 31
)

// verb is what a request asks for.
type verb string

const (
	verbOpen        verb = "open"
	verbClose       verb = "close"
	verbRead        verb = "read"
	verbWrite       verb = "write"
	verbLstat       verb = "lstat"
	verbFstat       verb = "fstat"
	verbSetstat     verb = "setstat"
	verbFsetstat    verb = "fsetstat"
	verbOpendir     verb = "opendir"
	verbReaddir     verb = "readdir"
	verbRemove      verb = "remove"
	verbMkdir       verb = "mkdir"
	verbRmdir       verb = "rmdir"
	verbRealpath    verb = "realpath"
	verbStat        verb = "stat"
	verbRename      verb = "rename"
	verbReadlink    verb = "readlink"
	verbSymlink     verb = "symlink"
	verbPosixRename verb = "posix-rename@openssh.com"
	verbHardlink    verb = "hardlink@openssh.com"
	verbFsync       verb = "fsync@openssh.com"
	verbStatVFS     verb = "statvfs@openssh.com"
)

// verbs are the plain requests by their types.
var verbs = map[byte]verb{
	3: verbOpen, 4: verbClose, 5: verbRead, 6: verbWrite, 7: verbLstat, 8: verbFstat, 9: verbSetstat, 10: verbFsetstat, 11: verbOpendir, 12: verbReaddir,
	13: verbRemove, 14: verbMkdir, 15: verbRmdir, 16: verbRealpath, 17: verbStat, 18: verbRename, 19: verbReadlink, 20: verbSymlink,
}

// extensions are those that are offered, with their versions.
var extensions = [][2]string{{string(verbPosixRename), "1"}, {string(verbStatVFS), "2"}, {string(verbHardlink), "1"}, {string(verbFsync), "1"}}

var (
	errMalformed   = errors.New("malformed request")
	errUnsupported = fmt.Errorf("this server does no such thing: %w", errors.ErrUnsupported)
)

// request is a decoded packet. Which fields count depends on the verb. data lies in the packet.
type request struct {
	id       uint32
	verb     verb
	path, to string
	handle   string
	flags    uint32 // of open
	off      uint64
	n        uint32
	data     []byte
	attrs    uint32 // what attributes are there
	size     uint64 // of the attributes
}

// decode reads a packet, without its length. If it returns an error the id is valid, unless the packet is too short for one.
func decode(packet []byte) (q request, err error) {
	if len(packet) < 5 {
		return q, fmt.Errorf("a packet of %d bytes: %w", len(packet), errMalformed)
	}
	d := decoder{rest: packet[1:]}
	q.id = d.u32()
	q.verb = verbs[packet[0]]
	if packet[0] == typeExtended {
		switch v := verb(d.str()); v {
		case verbPosixRename, verbHardlink, verbFsync, verbStatVFS:
			q.verb = v
		}
	}
	switch q.verb {
	case verbOpen:
		q.path, q.flags = d.str(), d.u32()
		d.attributes(&q)
	case verbClose, verbFstat, verbReaddir, verbFsync:
		q.handle = d.str()
	case verbRead:
		q.handle, q.off, q.n = d.str(), d.u64(), d.u32()
	case verbWrite:
		q.handle, q.off, q.data = d.str(), d.u64(), d.bytes()
	case verbSetstat, verbMkdir:
		q.path = d.str()
		d.attributes(&q)
	case verbFsetstat:
		q.handle = d.str()
		d.attributes(&q)
	case verbLstat, verbStat, verbOpendir, verbRemove, verbRmdir, verbRealpath, verbReadlink, verbStatVFS:
		q.path = d.str()
	case verbRename, verbPosixRename, verbHardlink, verbSymlink:
		q.path, q.to = d.str(), d.str()
	}
	if d.short {
		return q, errMalformed
	}
	return q, nil
}

// decoder takes fields off a packet. After one that is not there everything is zero and short is set.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) take(n uint64) []byte {
	if d.short || n > uint64(len(d.rest)) {
		d.short = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) bytes() []byte { return d.take(uint64(d.u32())) }
func (d *decoder) str() string   { return string(d.bytes()) }

func (d *decoder) attributes(q *request) {
	q.attrs = d.u32()
	if q.attrs&attrSize != 0 {
		q.size = d.u64()
	}
	for _, a := range []uint32{attrOwner, attrTimes} {
		if q.attrs&a != 0 {
			d.u64()
		}
	}
	if q.attrs&attrMode != 0 {
		d.u32()
	}
	if q.attrs&attrExtended != 0 {
		for n := d.u32(); n > 0 && !d.short; n-- {
			d.bytes()
			d.bytes()
		}
	}
}

// answer is a packet in the making, its length first.
type answer []byte

// begin makes a the beginning of a packet about the request id.
func (a *answer) begin(kind byte, id uint32) {
	*a = append((*a)[:0], 0, 0, 0, 0, kind)
	a.u32(id)
}

// packet fills the length in and returns the bytes to send.
func (a *answer) packet() []byte {
	binary.BigEndian.PutUint32(*a, uint32(len(*a)-4))
	return *a
}

func (a *answer) u32(v uint32) { *a = binary.BigEndian.AppendUint32(*a, v) }
func (a *answer) u64(v uint64) { *a = binary.BigEndian.AppendUint64(*a, v) }

func (a *answer) str(s string) {
	a.u32(uint32(len(s)))
	*a = append(*a, s...)
}

func (a *answer) status(id, code uint32, text string) {
	const maxText = 1 << 10
	a.begin(typeStatus, id)
	a.u32(code)
	a.str(text[:min(len(text), maxText)])
	a.str("en")
}

// described makes a the answer to a request for a file's attributes.
func (a *answer) described(id uint32, info fs.FileInfo) {
	a.begin(typeAttrs, id)
	a.attributes(info)
}

// attributes appends what a file's description says of size, mode and time. The owner is nobody's business.
func (a *answer) attributes(info fs.FileInfo) {
	a.u32(attrSize | attrMode | attrTimes)
	a.u64(uint64(max(info.Size(), 0)))
	a.u32(posixMode(info.Mode()))
	seconds := uint32(min(max(info.ModTime().Unix(), 0), math.MaxUint32))
	a.u32(seconds) // of the last access: not told
	a.u32(seconds)
}

func posixMode(m fs.FileMode) uint32 {
	kinds := map[fs.FileMode]uint32{
		0: 0o100000, fs.ModeDir: 0o040000, fs.ModeSymlink: 0o120000, fs.ModeNamedPipe: 0o010000, fs.ModeSocket: 0o140000,
		fs.ModeDevice: 0o060000, fs.ModeDevice | fs.ModeCharDevice: 0o020000,
	}
	return kinds[m.Type()] | uint32(m.Perm())
}

// entry appends a directory's entry.
func (a *answer) entry(name string, info fs.FileInfo) {
	a.str(name)
	a.str(fmt.Sprintf("%s %12d %s %s", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.DateTime), name))
	a.attributes(info)
}
