// Package sftp keeps a repository's files in a directory of a server that speaks SFTP, version 3: over SSH, or through a command that does.
//
// A file is written under a random name in the directory "tmp", with many requests under way, synchronized by fsync@openssh.com, and given its name.
// Exclusively that is done by hardlink@openssh.com, and on servers without it by a plain rename, once a probe has shown that it refuses an
// existing target; never by posix-rename. Replacing is done by posix-rename@openssh.com; without that by a plain rename; and only where that refuses an
// existing target by removing it first, so that on such a server a reader may find nothing for a moment, and a crash then leaves nothing.
//
// What SFTP cannot do: it synchronizes no directory. A file's bytes are durable when Put returns, if the server offers fsync@openssh.com (Store.Durable),
// but the name only as the server's file system makes it so by itself: a journalling one does after a few seconds, and in the order in which names were
// given. After creating a file exclusively by a hard link it is synchronized again, which on such a file system (ext4, XFS, Btrfs, ZFS) makes its name, and
// with it those given before, durable at once. Files are dated in whole seconds. A directory has no identity: see Store for what that means.
//
// Host keys are checked strictly against known_hosts files. Nothing is read from the environment.
package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"packhold/backends"
)

const (
	// tempDir is kept out of the way by backends.ValidName.
	tempDir = "tmp"

	// staleAge is far longer than any Put. A writer that slept longer finds its file gone, and its Put fails.
	staleAge = 24 * time.Hour

	rootMode = 0o700
	fileMode = 0o400 // a finished file never changes

	// Large files are sent and fetched in parts of partSize, partsAtOnce of them at a time, each in requests of 32 KiB: between parts the context is
	// looked at. So 3 MiB are under way at most, which fills 250 Mbit/s at a round trip of 100 ms, on each connection.
	partSize    = 1 << 20
	partsAtOnce = 3
)

// Store is a backends.Storage on an SFTP server. Its methods may be called concurrently, and one call of many at a time needs no connection of its own.
//
// A call whose connection dies is made again on a new one, up to twice; a Put then begins afresh. An exclusive Put whose answer got lost may so find its
// own file and answer fs.ErrExist; a Delete whose answer got lost is taken to have worked if the file is gone. A server that cannot be reached at all is
// an error at once: trying for longer is the caller's business. A context that ends makes a call return within half a second, at the price of its
// connection if the server does not answer meanwhile.
//
// Symbolic links in the directory are not followed and, like special files, are errors wherever their name could be a file's or a directory's. SFTP has
// no way to do that without a race, so it guards against accidents, not against who can write on the server. RetainUntil is not supported.
//
// A root that was removed, or replaced by a directory without any of the directories this Store has seen in it, is noticed whenever something is missing,
// and is never made again. One replaced by another repository is not noticed here.
type Store struct {
	root string
	pool *pool

	durable bool

	mu sync.Mutex // guards what is below

	// dirs holds the directories that were looked at and are no symbolic links.
	dirs map[string]bool

	// renames says what a plain rename does with an existing target, once that was probed.
	renames renames
}

type renames uint8

const (
	renamesUnknown renames = iota
	renamesRefuse
	renamesReplace
)

var (
	_ backends.Storage = (*Store)(nil)
	_ io.Closer        = (*Store)(nil)
)

// Open connects and opens the repository's files. A missing directory is an error matching fs.ErrNotExist unless o.Create is set, keys that the server
// refuses one matching fs.ErrPermission, a host key that is not trusted one matching ErrUnknownHost or ErrHostKeyChanged. The caller must Close the Store.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("opening storage: %w", err)
	}
	d := &dialer{o: o, keys: &keys{o: o}}
	s := &Store{root: o.Path, pool: newPool(o.Connections, d.dial), dirs: map[string]bool{}}
	err = s.pool.do(ctx, smallCall, func(ctx context.Context, l *link) error {
		s.durable = l.has(extFsync)
		return s.openRoot(l, o.Create)
	})
	if err == nil && o.RemoveStale {
		err = s.pool.do(ctx, smallCall, s.removeStale)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening storage %s: %w", o.place(), err), s.Close())
	}
	return s, nil
}

func (s *Store) openRoot(l *link, create bool) error {
	info, err := answered(l.client.Stat(s.root)) // follows a symbolic link that the root may be
	if create && errors.Is(err, fs.ErrNotExist) {
		if err := s.makeRoot(l); err != nil {
			return err
		}
		info, err = answered(l.client.Stat(s.root))
	}
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("it is no directory (%s)", info.Mode().Type())
	}
	return err
}

// makeRoot makes the root and the directories above it.
func (s *Store) makeRoot(l *link) error {
	var missing []string
	for p := s.root; ; p = path.Dir(p) {
		_, err := answered(l.client.Stat(p))
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || p == path.Dir(p) {
			return err
		}
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := l.client.Mkdir(missing[i]); err != nil {
			if _, statErr := answered(l.client.Stat(missing[i])); statErr != nil { // made by someone else otherwise
				return l.refused(path.Dir(missing[i]), err)
			}
			continue
		}
		if i == 0 {
			_ = l.client.Chmod(missing[i], rootMode) // some servers know no modes
		}
	}
	return nil
}

// Close ends all connections. Calls under way get a second to finish and fail then, as do calls after it. It may be called more than once.
func (s *Store) Close() error {
	s.pool.close()
	return nil
}

// Durable reports whether the server synchronizes files (fsync@openssh.com). Without that, a power loss of the server may take files of the last minute.
func (s *Store) Durable() bool { return s.durable }

func (s *Store) at(name string) string { return path.Join(s.root, name) }

func check(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return ctxError(ctx)
	}
	return backends.CheckName(name)
}

// present returns an error matching backends.ErrGone unless the root is still there, and, as far as can be told, the one that was opened: nothing of ours
// ever removes a directory, so that one of those seen in it is still there. Without it everything in a removed or unmounted root would look like an
// authentic "does not exist", and a Put would end in a place nobody reads.
func (s *Store) present(l *link) error {
	s.mu.Lock()
	var witnesses []string
	for dir := range s.dirs {
		if !strings.Contains(dir, "/") {
			witnesses = append(witnesses, dir)
		}
	}
	s.mu.Unlock()
	for _, dir := range append(witnesses, ".") {
		info, err := answered(l.client.Stat(s.at(dir)))
		switch {
		case err == nil && info.IsDir() && (dir != "." || len(witnesses) == 0):
			return nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("looking at the directory %q: %w", s.root, err)
		case dir == "." && err != nil:
			// %v, not %w: nobody may take this for the absence of a file.
			return fmt.Errorf("%w: %q: %v", backends.ErrGone, s.root, err)
		}
	}
	return fmt.Errorf("%w: another directory is at %q, without any of %q", backends.ErrGone, s.root, witnesses)
}

// absent returns err, found while something was looked for, unless it says "does not exist" and the whole root is gone.
func (s *Store) absent(l *link, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if gone := s.present(l); gone != nil {
			return gone
		}
	}
	return err
}

// Put implements backends.Storage.
func (s *Store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	err := check(ctx, name)
	switch {
	case err != nil:
	case len(data) > backends.MaxObject:
		err = fmt.Errorf("the limit is %d bytes: %w", backends.MaxObject, backends.ErrPermanent)
	case opts.CheckExtend(data) != nil:
		err = opts.CheckExtend(data)
	case !opts.RetainUntil.IsZero():
		err = fmt.Errorf("keeping files until a date: %w", backends.ErrUnsupported)
	default:
		err = s.pool.do(ctx, weight(int64(len(data))), func(ctx context.Context, l *link) error {
			return s.put(ctx, l, name, data, opts.IfAbsent)
		})
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%v", err) // of a temporary file or a directory
	}
	return fmt.Errorf("storing %q (%d bytes): %w", name, len(data), err)
}

func weight(n int64) int {
	if n >= partSize {
		return largeCall
	}
	return smallCall
}

func (s *Store) put(ctx context.Context, l *link, name string, data []byte, ifAbsent bool) error {
	var (
		wg               sync.WaitGroup
		temp             string
		f                *sftp.File
		openErr, lookErr error
		exists           bool
	)
	wg.Go(func() { temp, f, openErr = s.createTemp(l) })
	if ifAbsent {
		// Only spares the sending of data in vain. give decides.
		wg.Go(func() { exists, lookErr = s.taken(l, name) })
	}
	dirErr := s.makeDirs(l, path.Dir(name))
	wg.Wait()
	if openErr != nil {
		return s.absent(l, s.refused(l, openErr))
	}
	err := lookErr
	switch {
	case dirErr != nil:
		err = s.absent(l, dirErr)
	case exists:
		err = fs.ErrExist
	}
	if err == nil {
		err = s.fill(ctx, l, f, temp, data)
	}
	linking := ifAbsent && l.has(extHardlink)
	if !linking || err != nil {
		// Closed before it gets its name: Windows renames no open file, and some file systems report errors here.
		if closeErr := handleError(f.Close()); err == nil {
			err = s.refused(l, closeErr)
		}
	}
	if err == nil && ctx.Err() != nil {
		err = ctxError(ctx)
	}
	if err == nil {
		if err = s.publish(ctx, l, temp, name, ifAbsent); linking {
			if err == nil {
				err = s.linked(l, f, name, int64(len(data)))
			}
			l.later(func() { _ = f.Close() })
		}
	}
	if err != nil || linking {
		// A leftover is harmless, and removed when stale.
		l.later(func() { _ = l.client.Remove(s.at(temp)) })
	}
	return err
}

// linked makes the name durable that the open file f has got, where the server can, and looks whether it has got it: rclone answers that it made a link, and
// makes none.
func (s *Store) linked(l *link, f *sftp.File, name string, size int64) error {
	var wg sync.WaitGroup
	var info fs.FileInfo
	var lookErr error
	wg.Go(func() { info, lookErr = answered(l.client.Lstat(s.at(name))) })
	var err error
	if l.has(extFsync) {
		// The new name changed the file's inode, so that this makes a journal durable in which the name is. What commits a snapshot is created so.
		err = s.refused(l, handleError(f.Sync()))
	}
	wg.Wait()
	switch {
	case err != nil:
		return err
	case errors.Is(lookErr, fs.ErrNotExist):
		return fmt.Errorf("creating exclusively: %w: the server says that it made a hard link, and made none", backends.ErrUnsupported)
	case lookErr != nil:
		return lookErr
	case info.Size() != size:
		return fmt.Errorf("creating exclusively: %w: the hard link that the server made is to another file", backends.ErrUnsupported)
	}
	return nil
}

// taken reports whether something has the name.
func (s *Store) taken(l *link, name string) (bool, error) {
	_, err := answered(l.client.Lstat(s.at(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// fill writes data to the temporary file f, called temp, and makes it durable, where the server can.
func (s *Store) fill(ctx context.Context, l *link, f *sftp.File, temp string, data []byte) error {
	err := parts(ctx, int64(len(data)), func(off, end int64) error {
		_, err := f.WriteAt(data[off:end], off)
		return handleError(err)
	})
	if err != nil {
		return s.refused(l, err)
	}
	var wg sync.WaitGroup
	// Guards against accidents only; some servers know no modes. By name, because a File does nothing else while it synchronizes.
	wg.Go(func() { _ = l.client.Chmod(s.at(temp), fileMode) })
	if l.has(extFsync) {
		err = handleError(f.Sync())
	}
	wg.Wait()
	return s.refused(l, err)
}

// parts calls f for the parts of n bytes, several at a time, until the context ends or f fails.
func parts(ctx context.Context, n int64, f func(off, end int64) error) error {
	if n <= partSize {
		if n == 0 {
			return nil
		}
		return f(0, n)
	}
	g, groupCtx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for off := int64(0); off < n && groupCtx.Err() == nil; off += partSize {
		g.Go(func() error { return f(off, min(off+partSize, n)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctxError(ctx)
}

// createTemp opens a new temporary file for writing.
func (s *Store) createTemp(l *link) (string, *sftp.File, error) {
	if err := s.makeDirs(l, tempDir); err != nil {
		return "", nil, err
	}
	temp := tempDir + "/" + rand.Text()
	f, err := answered(l.client.OpenFile(s.at(temp), os.O_WRONLY|os.O_CREATE|os.O_EXCL))
	if errors.Is(err, fs.ErrNotExist) {
		// Someone removed the directory this Store had seen.
		if err := s.present(l); err != nil {
			return "", nil, err
		}
		s.forget(tempDir)
		if err := s.makeDirs(l, tempDir); err != nil {
			return "", nil, err
		}
		f, err = answered(l.client.OpenFile(s.at(temp), os.O_WRONLY|os.O_CREATE|os.O_EXCL))
	}
	return temp, f, err
}

// publish gives the temporary file its name.
func (s *Store) publish(ctx context.Context, l *link, temp, name string, ifAbsent bool) error {
	give := s.replace
	if ifAbsent {
		give = func(l *link, from, to string) error { return s.exclusive(ctx, l, from, to) }
	}
	err := give(l, temp, name)
	if errors.Is(err, fs.ErrNotExist) {
		// Someone removed a directory this Store had seen.
		if err := s.present(l); err != nil {
			return err
		}
		dir := path.Dir(name)
		s.forget(dir)
		if err := s.makeDirs(l, dir); err != nil {
			return s.absent(l, err)
		}
		err = give(l, temp, name)
	}
	return err
}

// exclusive gives from the name to unless that is taken.
func (s *Store) exclusive(ctx context.Context, l *link, from, to string) error {
	give := l.client.Link
	if !l.has(extHardlink) {
		can, err := s.renameRefuses(ctx, l)
		if err != nil {
			return err
		}
		if !can {
			return fmt.Errorf("creating exclusively: %w: the server has no hard links, and its rename replaces", backends.ErrUnsupported)
		}
		give = l.client.Rename
	}
	err := give(s.at(from), s.at(to))
	if err == nil || isLost(err) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// OpenSSH says no more than "Failure" if the target exists.
	if taken, lookErr := s.taken(l, to); lookErr != nil {
		return errors.Join(err, lookErr)
	} else if taken {
		return fs.ErrExist
	}
	if err = s.refused(l, err); errors.Is(err, backends.ErrNoSpace) || !l.has(extHardlink) {
		return err
	}
	// Is it this place, or the file system, which has no hard links? The temporary file was made in a directory that takes new names.
	second := from + "L"
	if linkErr := l.client.Link(s.at(from), s.at(second)); linkErr != nil && !isLost(linkErr) {
		return fmt.Errorf("creating exclusively: %w: hard links fail: %v", backends.ErrUnsupported, err)
	}
	l.later(func() { _ = l.client.Remove(s.at(second)) })
	return err
}

// renameRefuses reports whether a plain rename refuses an existing target, as the protocol demands and not every server does. It is probed once: there may
// be servers that look first and rename then, or that look at what they remember, so several connections try it at once.
func (s *Store) renameRefuses(ctx context.Context, l *link) (bool, error) {
	s.mu.Lock()
	known := s.renames
	s.mu.Unlock()
	if known != renamesUnknown {
		return known == renamesRefuse, nil
	}
	links := [probeLinks]*link{l, l}
	if other, err := s.pool.dial(ctx); err == nil {
		defer other.close()
		links[1] = other
	} else if ctx.Err() != nil {
		return false, ctxError(ctx)
	} // a server may allow one connection only
	known = renamesRefuse
	for range probeRounds {
		one, err := s.raceRenames(links)
		if err != nil {
			return false, err
		}
		if !one {
			known = renamesReplace
			break
		}
	}
	s.mu.Lock()
	s.renames = known
	s.mu.Unlock()
	return known == renamesRefuse, nil
}

const (
	probeRounds  = 2
	probeLinks   = 2
	probeRenames = 8 // at once
)

// raceRenames renames files to one name, one by each connection after the other, and files to another name, all at once. It reports whether exactly one got
// either and has kept it.
func (s *Store) raceRenames(links [probeLinks]*link) (one bool, err error) {
	var temps [probeLinks + probeRenames]string
	var errs [len(temps)]error
	of := func(i int) *link { return links[i%len(links)] }
	var wg sync.WaitGroup
	for i := range temps {
		wg.Go(func() {
			temp, f, err := s.createTemp(of(i))
			if err == nil {
				temps[i] = temp
				_, err = f.WriteAt(make([]byte, i+1), 0) // told apart by their sizes
				err = errors.Join(handleError(err), handleError(f.Close()))
			}
			errs[i] = s.refused(of(i), err)
		})
	}
	wg.Wait()
	// From one directory to another, as it will be: there are servers that are careful within one only.
	dir := tempDir + "/" + rand.Text()
	targets := []string{dir + "/first", dir + "/second"}
	defer func() {
		for _, temp := range append(targets, temps[:]...) {
			if temp != "" {
				wg.Go(func() { _ = links[0].client.Remove(s.at(temp)) })
			}
		}
		wg.Wait()
		_ = links[0].client.RemoveDirectory(s.at(dir))
	}()
	if err := errors.Join(errs[:]...); err != nil {
		return false, err
	}
	if err := s.refused(links[0], links[0].client.Mkdir(s.at(dir))); err != nil {
		return false, err
	}
	// A server that remembers what is there would do so from now on.
	for _, l := range links {
		if _, err := l.client.ReadDir(s.at(dir)); err != nil {
			return false, handleError(err)
		}
	}
	try := func(i int, target string) { errs[i] = of(i).client.Rename(s.at(temps[i]), s.at(target)) }
	for i := range links {
		try(i, targets[0])
	}
	for i := len(links); i < len(temps); i++ {
		wg.Go(func() { try(i, targets[1]) })
	}
	wg.Wait()
	for _, err := range errs {
		if isLost(err) {
			return false, err
		}
	}
	for t, part := range [][]error{errs[:len(links)], errs[len(links):]} {
		winner := slices.Index(part, nil)
		if winner < 0 || slices.Contains(part[winner+1:], nil) {
			return false, nil
		}
		for _, l := range links {
			info, err := answered(l.client.Lstat(s.at(targets[t])))
			if isLost(err) {
				return false, err
			}
			if err != nil || info.Size() != int64(t*len(links)+winner+1) { // it did something nevertheless
				return false, nil
			}
		}
	}
	return true, nil
}

// replace gives from the name to, which may be taken.
func (s *Store) replace(l *link, from, to string) error {
	if l.has(extRename) {
		return s.refused(l, l.client.PosixRename(s.at(from), s.at(to)))
	}
	err := l.client.Rename(s.at(from), s.at(to))
	if err == nil || isLost(err) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	info, lookErr := answered(l.client.Lstat(s.at(to)))
	if lookErr != nil || !info.Mode().IsRegular() {
		return s.refused(l, err)
	}
	// See the package's comment: this server has no atomic replacement.
	if err := l.client.Remove(s.at(to)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.refused(l, err)
	}
	return s.refused(l, l.client.Rename(s.at(from), s.at(to)))
}

// unseen returns those of dir and the directories above it that were not looked at yet, the shallowest first.
func (s *Store) unseen(dir string) []string {
	list := backends.Parents(dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	var unseen []string
	for i := len(list) - 1; i >= 0; i-- {
		if !s.dirs[list[i]] {
			unseen = append(unseen, list[i])
		}
	}
	return unseen
}

func (s *Store) saw(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs[dir] = true
}

func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range backends.Parents(dir) {
		delete(s.dirs, d)
	}
}

// plainDir returns an error unless name is a directory and no symbolic link to one.
func (s *Store) plainDir(l *link, name string) error {
	info, err := answered(l.client.Lstat(s.at(name)))
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%q is no directory (%s)", name, info.Mode().Type())
	}
	s.saw(name)
	return nil
}

// lookDirs checks every directory that leads to a file of dir with plainDir, once, all at a time. The error is that of the shallowest.
func (s *Store) lookDirs(l *link, dir string) error {
	for _, err := range s.look(l, s.unseen(dir)) {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) look(l *link, dirs []string) []error {
	errs := make([]error, len(dirs))
	var wg sync.WaitGroup
	for i, d := range dirs {
		wg.Go(func() { errs[i] = s.plainDir(l, d) })
	}
	wg.Wait()
	return errs
}

// makeDirs makes dir and those above it where missing, never the root.
func (s *Store) makeDirs(l *link, dir string) error {
	dirs := s.unseen(dir)
	making := false
	for i, err := range s.look(l, dirs) {
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !making { // before the first: another root must not become the right one by it
			if err := s.present(l); err != nil {
				return err
			}
			making = true
		}
		makeErr := l.client.Mkdir(s.at(dirs[i]))
		// Looked at even if it was made: then it is surely there, and otherwise someone else may have been faster.
		if err := s.plainDir(l, dirs[i]); err != nil {
			if makeErr != nil {
				err = s.refused(l, makeErr)
			}
			return err
		}
	}
	return nil
}

// lstat describes the regular file name. A directory is no file, so fs.ErrNotExist.
func (s *Store) lstat(l *link, name string) (info fs.FileInfo, err error) {
	var wg sync.WaitGroup
	wg.Go(func() { info, err = answered(l.client.Lstat(s.at(name))) })
	dirErr := s.lookDirs(l, path.Dir(name))
	wg.Wait()
	switch {
	case dirErr != nil:
		return nil, dirErr
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("a directory: %w", fs.ErrNotExist)
	}
	return info, regular(info)
}

func regular(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is no regular file (%s)", info.Name(), info.Mode().Type())
	}
	if info.Size() < 0 { // more than fits, which no file has
		return fmt.Errorf("the server gives %q an impossible size", info.Name())
	}
	return nil
}

// Get implements backends.Storage. A request to read that the server only calls a failure matches syscall.EIO: that is what a bad sector looks like.
func (s *Store) Get(ctx context.Context, name string, off, n int64) (data []byte, err error) {
	if err = check(ctx, name); err == nil {
		err = s.pool.do(ctx, weight(n), func(ctx context.Context, l *link) (err error) {
			data, err = s.get(ctx, l, name, off, n)
			return s.absent(l, err)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	return data, nil
}

func (s *Store) get(ctx context.Context, l *link, name string, off, n int64) (data []byte, err error) {
	var (
		wg      sync.WaitGroup
		f       *sftp.File
		openErr error
	)
	// Opened without waiting for the description, but after that was asked for: a server that does one thing at a time would not come to it if it waits
	// for the writer of a named pipe.
	described := l.writer.expect(s.at(name))
	wg.Go(func() {
		select {
		case <-described:
			f, openErr = answered(l.client.Open(s.at(name)))
		case <-l.dead:
			openErr = errLost
		}
	})
	info, err := s.lstat(l, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		timer := time.AfterFunc(cancelGrace, l.kill)
		defer timer.Stop()
	}
	wg.Wait()
	if f != nil {
		defer l.later(func() { _ = f.Close() })
	}
	if err != nil {
		return nil, err
	}
	if openErr != nil {
		return nil, openErr
	}
	// The size of what was opened counts, as since lstat the file may have been replaced. That is rare, so what the other size asks for is read already.
	var opened fs.FileInfo
	var statErr error
	wg.Go(func() { opened, statErr = answered(f.Stat()) })
	data, err = s.read(ctx, f, info.Size(), off, n)
	wg.Wait()
	if statErr != nil {
		return nil, handleError(statErr)
	}
	if regularErr := regular(opened); regularErr != nil {
		return nil, regularErr
	}
	if opened.Size() != info.Size() && !isLost(err) {
		data, err = s.read(ctx, f, opened.Size(), off, n)
	}
	return data, err
}

// read reads bytes of a file of the given size.
func (s *Store) read(ctx context.Context, f *sftp.File, size, off, n int64) ([]byte, error) {
	n, err := backends.Span(size, off, n)
	if err != nil || n == 0 {
		return []byte{}, err
	}
	data := backends.Buffer(n)
	err = parts(ctx, n, func(from, end int64) error { return readFull(f, data[from:end], off+from) })
	if err != nil {
		return nil, err
	}
	return data, nil
}

func readFull(f *sftp.File, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := f.ReadAt(b, off)
		b, off = b[n:], off+int64(n)
		switch {
		case err == io.EOF && n > 0: // pkg/sftp takes an answer shorter than was asked for as the file's end
		case err == io.EOF || err == nil && n == 0: // the latter is a hostile answer that says nothing
			return fmt.Errorf("file got shorter: %w", io.ErrUnexpectedEOF)
		case code(err) == codeFailure:
			return fmt.Errorf("%w: %w", syscall.EIO, err)
		case err != nil:
			return handleError(err)
		}
	}
	return nil
}

// Stat implements backends.Storage.
func (s *Store) Stat(ctx context.Context, name string) (backends.Info, error) {
	var info fs.FileInfo
	err := check(ctx, name)
	if err == nil {
		err = s.pool.do(ctx, smallCall, func(_ context.Context, l *link) (err error) {
			info, err = s.lstat(l, name)
			return s.absent(l, err)
		})
	}
	if err != nil {
		return backends.Info{}, fmt.Errorf("looking for %q: %w", name, err)
	}
	return backends.Info{Name: name, Size: info.Size(), ModTime: info.ModTime()}, nil
}

// Delete implements backends.Storage. It leaves directories, because removing them would race with writers.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := check(ctx, name)
	if err == nil {
		asked := false // the server was to remove a file that was there
		err = s.pool.do(ctx, smallCall, func(_ context.Context, l *link) error {
			_, err := s.lstat(l, name)
			if err == nil {
				before := asked
				asked = true
				if err = s.refused(l, l.client.Remove(s.at(name))); err != nil && !before {
					return s.absent(l, err)
				}
			}
			if err = s.absent(l, err); asked && errors.Is(err, fs.ErrNotExist) {
				return nil // the answer got lost
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("deleting %q: %w", name, err)
	}
	return nil
}

// removeStale does what Options.RemoveStale says.
func (s *Store) removeStale(ctx context.Context, l *link) error {
	if err := s.plainDir(l, tempDir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	temp, f, err := s.createTemp(l)
	if err = s.refused(l, err); errors.Is(err, backends.ErrNoSpace) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := answered(f.Stat())
	err = errors.Join(handleError(err), handleError(f.Close()))
	if removeErr := l.client.Remove(s.at(temp)); err == nil {
		err = handleError(removeErr)
	}
	if err != nil {
		return err
	}
	now := info.ModTime()

	entries, err := l.readDir(ctx, s.at(tempDir), maxNames)
	if err != nil {
		return handleError(err)
	}
	length := len(rand.Text())
	for _, e := range entries {
		// Foreign: those of createTemp look like rand.Text, those of exclusive have an L behind.
		name, mode := e.Name(), e.Mode()
		if len(name) != length && len(name) != length+1 || strings.ToUpper(name) != name || !mode.IsRegular() || now.Sub(e.ModTime()) <= staleAge {
			continue
		}
		if ctx.Err() != nil {
			return ctxError(ctx)
		}
		// Gone: its writer finished, or another process cleans up, too. Refused: it is another user's, who shares the repository.
		if err := l.client.Remove(s.at(tempDir + "/" + name)); isLost(err) {
			return err
		}
	}
	return nil
}
