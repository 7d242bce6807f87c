package sftp

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/pkg/sftp"

	"packhold/backends"
)

// Extensions of the protocol that are used where the server has them.
const (
	extFsync    = "fsync@openssh.com"
	extHardlink = "hardlink@openssh.com"
	extRename   = "posix-rename@openssh.com"
	extStatVFS  = "statvfs@openssh.com"
)

// Codes of answers beyond version 3 of the protocol, which some servers send anyhow.
const (
	codeFailure      = 4
	codeWriteProtect = 12
	codeNoSpace      = 14
	codeQuota        = 15
)

// refused is link.refused for the root.
func (s *Store) refused(l *link, err error) error { return l.refused(s.root, err) }

// has reports whether the server offers an extension.
func (l *link) has(extension string) bool {
	version, ok := l.client.HasExtension(extension)
	return ok && (extension != extFsync || version == "1") // pkg/sftp refuses others
}

// answered turns an answer that holds neither what was asked for nor an error, for which pkg/sftp returns nothing, into an error.
func answered[T comparable](what T, err error) (T, error) {
	var nothing T
	empty := what == nothing
	if info, ok := any(what).(fs.FileInfo); ok { // about nothing, of which every method but Name and Sys panics
		stat, ok := info.Sys().(*sftp.FileStat)
		empty = empty || ok && stat == nil
	}
	if err == nil && empty {
		err = errors.New("the server's answer says nothing")
	}
	return what, err
}

// code returns the code of a server's answer, or 0 if err is something else.
func code(err error) uint32 {
	var status *sftp.StatusError
	if errors.As(err, &status) {
		return status.Code
	}
	return 0
}

// refused makes the error of a request that changes something in dir match what callers look for. OpenSSH says no more than "Failure" of a full or
// read-only file system, so that its state is asked for.
func (l *link) refused(dir string, err error) error {
	switch c := code(err); {
	case c == 0 || errors.Is(err, backends.ErrNoSpace) || errors.Is(err, fs.ErrPermission):
		return err
	case c == codeNoSpace || c == codeQuota || saysFull(err):
		return fmt.Errorf("%w: %w", backends.ErrNoSpace, err)
	case c == codeWriteProtect:
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	case c != codeFailure || !l.has(extStatVFS):
		return err
	}
	state, stateErr := answered(l.client.StatVFS(dir))
	if stateErr != nil {
		return err
	}
	const (
		readOnly = 1       // of the flags, in every version of the extension
		little   = 1 << 20 // a request of 32 KiB can fail before the last byte is used, and several are under way
	)
	switch {
	case state.Flag&readOnly != 0:
		return fmt.Errorf("%w: the file system is read-only: %w", fs.ErrPermission, err)
	case state.Bavail < little/max(state.Frsize, 1):
		return fmt.Errorf("%w: %d bytes are free: %w", backends.ErrNoSpace, state.Bavail*state.Frsize, err)
	case state.Files > 0 && state.Favail == 0:
		return fmt.Errorf("%w: no more files fit: %w", backends.ErrNoSpace, err)
	}
	return err
}

// saysFull reports whether the text of an answer speaks of space, as servers that are no OpenSSH do.
func saysFull(err error) bool {
	text := strings.ToLower(err.Error())
	for _, words := range []string{"no space", "quota", "disk full", "disk is full", "not enough space", "insufficient space", "file too large"} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// handleError keeps the error of a request about an open file from being taken for the absence of a file, or for its end.
func handleError(err error) error {
	if err == nil || isLost(err) || code(err) != 0 || errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%v", err)
}
