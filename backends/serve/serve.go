// Package serve serves a folder over SFTP on standard input and output, and refuses what would change what is finished.
//
// It is what a backup server runs for a key in authorized_keys, so that whoever has the key can add to a repository and read it, and destroy nothing. The
// protocol is version 3 with posix-rename, hardlink, fsync and statvfs of OpenSSH. To the client the folder is "/".
//
// A file is created below tmp/, exclusively, and written through the handle that created it and no other. It gets its name by rename or hard link, where
// nothing has that name, and is finished: no handle writes to it any more, and no request changes it. That holds from when the name is asked for.
// Directories are made when they are needed and never removed. Answers to fsync, rename, hard link and mkdir come when what was asked for outlasts a
// power loss. Nothing else can be changed: files of other names, attributes, symbolic links.
//
// # One writer for each temporary file
//
// Several processes serve one folder at once, one for each connection. What keeps a file from being written by one after another gave it its name is a
// lock, flock(2), which the creating handle holds until it is closed. Whoever takes away or gives a name to a temporary file must hold it: the handle's
// own process, or another one after that handle was closed. As the names of temporary files change under the lock only, a name that was looked up
// under the lock stays what it is. Nothing opens a file for writing that exists.
//
// # Why not pkg/sftp's RequestServer
//
// It does not know fsync@openssh.com and has no place to add it, answers fstat and fsetstat by the path a handle was opened by, which after a rename is
// another file or none, hands paths out only after cleaning them, runs requests to link and rename beside writes that came before them, and bounds
// neither handles nor goroutines by what a client may cost. Here requests are carried out one after another, as OpenSSH's server does it.
package serve

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// maxHandles is the number of files and directories that one connection may have open, as the ordinary limit of a process allows.
const maxHandles = 256

// ErrProtocol says that the client did not speak SFTP, or that it stopped in the middle of a request.
var ErrProtocol = errors.New("the client broke the protocol")

// Options says what Run allows. The zero value lets clients delete and replace finished files, one at a time and never in place, and has no quota.
type Options struct {
	// AppendOnly refuses to delete and to replace finished files.
	AppendOnly bool

	// Quota is the number of bytes that all files in the folder may have together, temporary and foreign ones included and those with several names
	// counted once; 0 is no limit. It bounds bytes, not the number of files. They are counted at the start, from time to time and before a
	// write is refused; in between the process knows of its own writes only. So several processes at once may exceed the quota, each by a sixteenth of
	// what was left, or by 64 MiB if that is more.
	Quota int64
}

// Run serves the folder dir, which must exist, to the client at the other end of conn until that closes its side, which is no error, breaks the
// protocol (ErrProtocol), or ctx ends. It uses less than a megabyte and one goroutine. What the client asks for is not trusted in any way; symbolic
// links in the folder are not followed. Temporary files older than a day are removed first, unless they are being written.
//
// The end of ctx closes conn, and only that does; Close must end Read and Write if Run is to return at once. On Windows, and other systems without
// flock(2), the error matches errors.ErrUnsupported.
func Run(ctx context.Context, dir string, conn io.ReadWriteCloser, o Options) error {
	return run(ctx, dir, conn, o, systemOps())
}

func run(ctx context.Context, dir string, conn io.ReadWriteCloser, o Options, ops ops) (err error) {
	defer func() {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			err = fmt.Errorf("serving %q: %w", dir, err)
		}
	}()
	if !supported {
		return fmt.Errorf("this system has no flock(2): %w", errors.ErrUnsupported)
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = conn.Close()
	})
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	s, err := newSession(dir, o, ops)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.removeStale(ctx); err != nil {
		return err
	}
	if err := s.quota.start(ctx, s); err != nil {
		return err
	}
	return s.serve(ctx, conn)
}

// session is one connection. All of it belongs to one goroutine.
type session struct {
	root *os.Root
	path string      // absolute
	self fs.FileInfo // of root
	o    Options
	ops  ops
	now  func() time.Time

	handles map[string]*handle
	opened  uint64 // handles ever; their names

	quota quota

	synced map[string]bool  // directories known to outlast a power loss
	lost   map[string]error // directories whose fsync failed: it is not repeated, because the kernel reports a lost write only once

	answer answer
}

func newSession(dir string, o Options, ops ops) (*session, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	self, err := root.Stat(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &session{
		root: root, path: dir, self: self, o: o, ops: ops, now: time.Now, handles: map[string]*handle{}, synced: map[string]bool{}, lost: map[string]error{},
		quota: quota{limit: o.Quota},
	}, nil
}

func (s *session) close() {
	for _, h := range s.handles {
		_ = h.file.Close() // who did not ask for it to be durable is not told whether it is
	}
	_ = s.root.Close()
}

// serve answers requests until there are no more.
func (s *session) serve(ctx context.Context, conn io.ReadWriter) error {
	const buffer = 64 << 10
	in, out := bufio.NewReaderSize(conn, buffer), bufio.NewWriterSize(conn, buffer)
	var packet []byte
	for started := false; ; started = true {
		if !holdsPacket(in) {
			if err := out.Flush(); err != nil {
				return fmt.Errorf("answering: %w", err)
			}
		}
		var err error
		if packet, err = readPacket(in, packet); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !started {
			if len(packet) < 5 || packet[0] != typeInit {
				return fmt.Errorf("%w: it did not begin with an SFTP version", ErrProtocol)
			}
			s.answer.begin(typeVersion, version)
			for _, e := range extensions {
				s.answer.str(e[0])
				s.answer.str(e[1])
			}
		} else {
			q, err := decode(packet)
			if err != nil && len(packet) < 5 {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if err == nil {
				err = s.do(ctx, q)
			}
			if err != nil || len(s.answer) == 0 {
				code, text := s.status(err)
				s.answer.status(q.id, code, text)
			}
		}
		if _, err := out.Write(s.answer.packet()); err != nil {
			return fmt.Errorf("answering: %w", err)
		}
	}
}

// holdsPacket reports whether a whole request is there already, so that answers may wait a little.
func holdsPacket(in *bufio.Reader) bool {
	if in.Buffered() < 4 {
		return false
	}
	head, err := in.Peek(4)
	return err == nil && int64(in.Buffered()) >= 4+int64(binary.BigEndian.Uint32(head))
}

// readPacket reads a packet, into b if that is large enough, and returns it without its length. The end before it is io.EOF itself.
func readPacket(in *bufio.Reader, b []byte) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err == io.ErrUnexpectedEOF {
		return b, fmt.Errorf("%w: %w", ErrProtocol, err)
	} else if err != nil {
		return b, err
	}
	n := int(min(binary.BigEndian.Uint32(head[:]), maxPacket+1))
	if n == 0 || n > maxPacket {
		return b, fmt.Errorf("%w: a packet that is empty or above %d bytes", ErrProtocol, maxPacket)
	}
	if n > cap(b) {
		b = make([]byte, n)
	}
	b = b[:n]
	if _, err := io.ReadFull(in, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		return b, fmt.Errorf("%w: %w", ErrProtocol, io.ErrUnexpectedEOF)
	} else if err != nil {
		return b, err
	}
	return b, nil
}

// do carries a request out. Its answer is s.answer, or if that is empty or an error is returned, a status.
func (s *session) do(ctx context.Context, q request) error {
	s.answer = s.answer[:0]
	switch q.verb {
	case verbOpen, verbOpendir, verbStat, verbLstat, verbSetstat, verbRemove, verbMkdir, verbRmdir, verbRename, verbPosixRename, verbHardlink, verbStatVFS:
		t, err := parse(q.path)
		if err != nil {
			return err
		}
		return s.doPath(ctx, q, t)
	case verbClose, verbRead, verbWrite, verbFstat, verbFsetstat, verbReaddir, verbFsync:
		h := s.handles[q.handle]
		if h == nil {
			return errors.New("no such handle")
		}
		return s.doHandle(ctx, q, h)
	case verbRealpath:
		return s.realpath(q)
	}
	return errUnsupported
}

func (s *session) doPath(ctx context.Context, q request, t target) error {
	switch q.verb {
	case verbOpen:
		return s.open(q, t)
	case verbOpendir:
		return s.opendir(q, t)
	case verbStat, verbLstat:
		return s.stat(q, t)
	case verbSetstat:
		return s.setstat(ctx, q, t)
	case verbRemove:
		return s.remove(t)
	case verbMkdir:
		return s.mkdir(t)
	case verbRmdir:
		return fmt.Errorf("directories are never removed: %w", fs.ErrPermission)
	case verbStatVFS:
		return s.statVFS(ctx, q)
	}
	to, err := parse(q.to)
	if err != nil {
		return err
	}
	switch {
	case q.verb == verbHardlink:
		return s.publish(t, to, s.ops.link, keepsOld)
	case q.verb != verbPosixRename || to.kind != kindFinished: // no temporary name is replaced: it changes under its file's lock only
		return s.publish(t, to, s.ops.rename, movesOld)
	case !s.o.AppendOnly:
		return s.publish(t, to, s.ops.replace, movesOld)
	}
	err = s.publish(t, to, s.ops.rename, movesOld)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("finished files are not replaced: %w", fs.ErrPermission)
	}
	return err
}

func (s *session) doHandle(ctx context.Context, q request, h *handle) error {
	switch q.verb {
	case verbClose:
		delete(s.handles, q.handle)
		return h.file.Close()
	case verbRead:
		return s.read(q, h)
	case verbWrite:
		return s.write(ctx, q, h)
	case verbFstat:
		info, err := h.file.Stat()
		if err == nil {
			s.answer.described(q.id, info)
		}
		return err
	case verbFsetstat:
		return s.fsetstat(ctx, q, h)
	case verbReaddir:
		return s.readdir(q, h)
	}
	if !h.writes {
		return fmt.Errorf("not open for writing: %w", fs.ErrPermission)
	}
	return s.sync(h)
}

// keep answers with a new handle.
func (s *session) keep(id uint32, h *handle) {
	s.opened++
	name := strconv.FormatUint(s.opened, 10)
	s.handles[name] = h
	s.answer.begin(typeHandle, id)
	s.answer.str(name)
}

var (
	errBusy    = errors.New("another connection is writing the temporary file or giving it its name")
	errNoLocks = errors.New("locking a temporary file: the folder must be on a local file system, with flock(2)")
)

// status returns the code of an error and what it says. No other error than one about a missing file is ever told as that.
func (s *session) status(err error) (code uint32, text string) {
	switch {
	case err == nil:
		return codeOK, "done"
	case err == io.EOF:
		return codeEOF, "end of file"
	case errors.Is(err, fs.ErrNotExist):
		if gone := s.present(); gone != nil {
			return codeFailure, gone.Error()
		}
		code = codeNoSuchFile
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		code = codeDenied
	case errors.Is(err, errMalformed):
		code = codeBadMessage
	case errors.Is(err, errors.ErrUnsupported):
		code = codeUnsupported
	default:
		code = codeFailure
	}
	return code, err.Error()
}

// present returns an error unless the folder that was opened is still the one at its path: without that everything in a removed or unmounted one
// would look like an authentic "does not exist", and a file would end in a place nobody reads.
func (s *session) present() error {
	now, err := os.Stat(s.path)
	if err == nil && os.SameFile(s.self, now) {
		return nil
	}
	return errors.New("the folder that is served has vanished or was replaced")
}
