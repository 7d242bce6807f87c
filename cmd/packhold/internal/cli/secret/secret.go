// Package secret finds the passphrase: in the environment, a file, a command's output, a systemd credential, or by asking.
package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"packhold/crypt"
)

var (
	// ErrNone is matched when no source is configured and nobody can be asked.
	ErrNone = errors.New("no passphrase is given, and there is no terminal to ask on")

	// ErrAmbiguous is matched when more than one variable names a passphrase.
	ErrAmbiguous = errors.New("more than one passphrase is given")

	// ErrSource is matched when a configured source does not deliver a usable passphrase.
	ErrSource = errors.New("passphrase source")

	// ErrShort is matched by a new passphrase below crypt.MinPassphrase bytes.
	ErrShort = errors.New("passphrase too short")

	// ErrMismatch is matched when the second typing of a new passphrase differs from the first.
	ErrMismatch = errors.New("the two passphrases differ")
)

// maxPassphrase caps in bytes what is read from a source: beyond it is a wrong file, not a passphrase.
const maxPassphrase = 4096

// Passphrase holds the bytes of a passphrase. It prints as a placeholder, also in JSON and with %#v.
type Passphrase struct{ b []byte }

// Of returns a Passphrase that owns b.
func Of(b []byte) Passphrase { return Passphrase{b} }

// Bytes returns the bytes, which stay the passphrase's.
func (p Passphrase) Bytes() []byte { return p.b }

// Zero overwrites the bytes. Copies that a library made are not reached.
func (p Passphrase) Zero() { clear(p.b) }

// Format writes a placeholder for every verb, so that no format string shows the bytes.
func (p Passphrase) Format(f fmt.State, _ rune) { io.WriteString(f, "(hidden)") }

// MarshalText returns the placeholder.
func (p Passphrase) MarshalText() ([]byte, error) { return []byte("(hidden)"), nil }

// Finder looks for a passphrase in its sources: the variables Name, Name_FILE and Name_COMMAND, of which at most one may
// be set, then the systemd credential, then Ask.
type Finder struct {
	// Name is PACKHOLD_PASSPHRASE, or PACKHOLD_NEW_PASSPHRASE for the one that replaces it.
	Name string
	// Getenv looks a variable up; "" is not set.
	Getenv func(string) string
	// Ask prompts on the terminal and returns what was typed, without echo and without line end. Nil if there is none.
	Ask func(ctx context.Context, prompt string) ([]byte, error)
	// Stderr is handed to Name_COMMAND, so that a password manager can explain itself.
	Stderr io.Writer
}

// Find returns the passphrase of an existing key. what is asked for, as in "passphrase for /backups".
func (f *Finder) Find(ctx context.Context, what string) (Passphrase, error) {
	b, found, err := f.configured(ctx)
	if err != nil || found {
		return Passphrase{b}, err
	}
	if f.Ask == nil {
		return Passphrase{}, ErrNone
	}
	if b, err = f.Ask(ctx, what+": "); err != nil {
		return Passphrase{}, fmt.Errorf("asking for the %s: %w", what, err)
	}
	return Passphrase{b}, nil
}

// FindNew returns the passphrase for a new key, of at least crypt.MinPassphrase bytes. On a terminal it is asked for
// twice, three times over if something is wrong with it; say tells why.
func (f *Finder) FindNew(ctx context.Context, what string, say func(string)) (Passphrase, error) {
	b, found, err := f.configured(ctx)
	if err != nil {
		return Passphrase{}, err
	}
	if found {
		return Passphrase{b}, checkNew(b)
	}
	if f.Ask == nil {
		return Passphrase{}, ErrNone
	}
	for try := 1; ; try++ {
		b, err = f.askTwice(ctx, what, say)
		again := errors.Is(err, ErrShort) || errors.Is(err, ErrMismatch)
		if !again || try == 3 {
			return Passphrase{b}, err
		}
		say(err.Error() + "; try again")
	}
}

func (f *Finder) askTwice(ctx context.Context, what string, say func(string)) ([]byte, error) {
	first, err := f.Ask(ctx, fmt.Sprintf("new %s (at least %d characters): ", what, crypt.MinPassphrase))
	if err != nil {
		return nil, fmt.Errorf("asking for the new %s: %w", what, err)
	}
	if err := checkNew(first); err != nil {
		return nil, err
	}
	if hint := Hint(first); hint != "" {
		say("note: " + hint)
	}
	second, err := f.Ask(ctx, "the same once more: ")
	if err != nil {
		return nil, fmt.Errorf("asking for the new %s: %w", what, err)
	}
	defer clear(second)
	if !bytes.Equal(first, second) {
		clear(first)
		return nil, ErrMismatch
	}
	return first, nil
}

func checkNew(b []byte) error {
	if len(b) < crypt.MinPassphrase {
		return fmt.Errorf("%w: %d bytes, at least %d are needed", ErrShort, len(b), crypt.MinPassphrase)
	}
	return nil
}

// configured reads the one source that is configured.
func (f *Finder) configured(ctx context.Context) (b []byte, found bool, err error) {
	var set []string
	for _, suffix := range []string{"", "_FILE", "_COMMAND"} {
		if f.Getenv(f.Name+suffix) != "" {
			set = append(set, f.Name+suffix)
		}
	}
	if len(set) > 1 {
		return nil, false, fmt.Errorf("%w: %s are set", ErrAmbiguous, strings.Join(set, " and "))
	}
	if len(set) == 1 {
		name, value := set[0], f.Getenv(set[0])
		switch {
		case name == f.Name:
			b, err = usable([]byte(value), name)
		case strings.HasSuffix(name, "_FILE"):
			b, err = fromFile(value, name)
		default:
			b, err = f.fromCommand(ctx, value, name)
		}
		return b, err == nil, err
	}
	if dir := f.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		file := strings.ReplaceAll(strings.ToLower(f.Name), "_", "-") // packhold-passphrase
		b, err = fromFile(filepath.Join(dir, file), "systemd credential "+file)
		if errors.Is(err, os.ErrNotExist) {
			return nil, false, nil // the unit has credentials, but not this one
		}
		return b, err == nil, err
	}
	return nil, false, nil
}

func fromFile(path, source string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrSource, source, err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxPassphrase+3)) // a line end and one byte too many
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrSource, source, err)
	}
	return usable(b, source)
}

// fromCommand runs a command line by the system's shell: the variable holds what a user would type.
func (f *Finder) fromCommand(ctx context.Context, line, source string) ([]byte, error) {
	shell, flag := "sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/C"
	}
	var out capped
	cmd := exec.CommandContext(ctx, shell, flag, line)
	cmd.Stdout, cmd.Stderr = &out, f.Stderr
	cmd.WaitDelay = time.Second // a grandchild that keeps the pipe open does not keep us
	if err := cmd.Run(); err != nil {
		clear(out.b)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w %s: %q: %w", ErrSource, source, line, err)
	}
	return usable(out.b, source)
}

// capped keeps the first bytes written to it, enough for usable to see that there are too many, and then fails, which
// closes the pipe of a command that writes for ever.
type capped struct{ b []byte }

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), maxPassphrase+3-len(c.b))
	c.b = append(c.b, p[:n]...)
	if n < len(p) {
		return n, errors.New("its output is too long")
	}
	return n, nil
}

// usable takes one line end away and refuses what cannot be a passphrase that a person could also type. A file in UTF-16
// or with a byte order mark would make another passphrase than the same text typed.
func usable(b []byte, source string) ([]byte, error) {
	refuse := func(why string) ([]byte, error) {
		clear(b)
		return nil, fmt.Errorf("%w %s: %s", ErrSource, source, why)
	}
	switch {
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		return refuse("it begins with a byte order mark; save it as UTF-8 without one")
	case bytes.HasPrefix(b, []byte("\xff\xfe")), bytes.HasPrefix(b, []byte("\xfe\xff")):
		return refuse("it is UTF-16; save it as UTF-8")
	}
	if line, ok := bytes.CutSuffix(b, []byte("\n")); ok {
		b = bytes.TrimSuffix(line, []byte("\r"))
	}
	switch {
	case len(b) == 0:
		return refuse("it is empty")
	case len(b) > maxPassphrase:
		return refuse(fmt.Sprintf("it is longer than %d bytes", maxPassphrase))
	case bytes.IndexByte(b, 0) >= 0:
		return refuse("it holds a zero byte; is it UTF-16 or a binary file?")
	case bytes.ContainsAny(b, "\r\n"):
		return refuse("it holds more than one line")
	case !utf8.Valid(b):
		return refuse("it is not UTF-8")
	}
	return b, nil
}

// Hint returns what makes b a weak passphrase, or "". It knows the commonest mistakes only: silence is no praise.
func Hint(b []byte) string {
	kinds := make(map[rune]bool)
	steps := 0 // neighbours that are equal or follow one another, as in aaaa and 1234
	runes := []rune(string(b))
	digits, letters := 0, 0
	for i, r := range runes {
		kinds[r] = true
		if r >= '0' && r <= '9' {
			digits++
		}
		if r|0x20 >= 'a' && r|0x20 <= 'z' {
			letters++
		}
		if i > 0 && r-runes[i-1] >= -1 && r-runes[i-1] <= 1 {
			steps++
		}
	}
	spaces := bytes.Count(b, []byte(" "))
	switch {
	case len(kinds) < 6:
		return "few different characters: easy to guess"
	case steps*2 > len(runes):
		return "mostly runs such as aaaa or 1234: easy to guess"
	case digits == len(runes):
		return "only digits: add words, or take 25 of them"
	case len(runes) < 20 && letters == len(runes):
		return "short for letters alone: five random words are better"
	case len(runes) < 20 && spaces > 0 && spaces < 3 && letters+spaces == len(runes):
		return "few words: five random ones are better"
	}
	return ""
}
