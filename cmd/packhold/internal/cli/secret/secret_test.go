package secret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func finder(env map[string]string, answers ...string) *Finder {
	f := &Finder{Name: "PACKHOLD_PASSPHRASE", Getenv: func(name string) string { return env[name] }, Stderr: io.Discard}
	if answers != nil {
		f.Ask = func(context.Context, string) ([]byte, error) {
			if len(answers) == 0 {
				return nil, io.EOF
			}
			a := answers[0]
			answers = answers[1:]
			return []byte(a), nil
		}
	}
	return f
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFile(t *testing.T) {
	for text, want := range map[string]string{
		"correct horse": "correct horse", "pass\n": "pass", "pass\r\n": "pass", " pass ": " pass ", "größe\n": "größe", "p\r": "",
		"": "", "\n": "", "a\nb": "", "a\n\n": "", "\xef\xbb\xbfpass": "", "\xff\xfep\x00": "", "\xfe\xff\x00p": "", "p\x00a\x00": "", "\xc3\x28": "",
		strings.Repeat("a", maxPassphrase): strings.Repeat("a", maxPassphrase), strings.Repeat("a", maxPassphrase) + "\r\n": strings.Repeat("a", maxPassphrase),
		strings.Repeat("a", maxPassphrase+1): "", strings.Repeat("a", 1<<20): "",
	} {
		path := file(t, "p", text)
		p, err := finder(map[string]string{"PACKHOLD_PASSPHRASE_FILE": path}).Find(t.Context(), "passphrase")
		if want == "" && !errors.Is(err, ErrSource) || want != "" && (err != nil || string(p.Bytes()) != want) {
			t.Errorf("file %.20q: %v", text, err)
		}
		if err != nil && text != "" && strings.Contains(err.Error(), "pass\x00") {
			t.Errorf("the error tells the passphrase: %v", err)
		}
	}
	_, err := finder(map[string]string{"PACKHOLD_PASSPHRASE_FILE": filepath.Join(t.TempDir(), "no")}).Find(t.Context(), "passphrase")
	if !errors.Is(err, ErrSource) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestSources(t *testing.T) {
	credentials := filepath.Dir(file(t, "packhold-passphrase", "from systemd\n"))
	cases := []struct {
		env  map[string]string
		ask  []string
		want string
		err  error
	}{
		{map[string]string{"PACKHOLD_PASSPHRASE": "direct"}, []string{"asked"}, "direct", nil},
		{map[string]string{"CREDENTIALS_DIRECTORY": credentials}, nil, "from systemd", nil},
		{map[string]string{"CREDENTIALS_DIRECTORY": credentials, "PACKHOLD_PASSPHRASE": "direct"}, nil, "direct", nil},
		{map[string]string{"CREDENTIALS_DIRECTORY": t.TempDir()}, []string{"asked"}, "asked", nil},
		{nil, []string{"asked"}, "asked", nil},
		{nil, []string{""}, "", nil},
		{nil, nil, "", ErrNone},
		{nil, []string{}, "", io.EOF},
		{map[string]string{"PACKHOLD_PASSPHRASE": "a", "PACKHOLD_PASSPHRASE_FILE": "b"}, []string{"asked"}, "", ErrAmbiguous},
	}
	for i, c := range cases {
		p, err := finder(c.env, c.ask...).Find(t.Context(), "passphrase")
		if c.ask != nil && len(c.ask) == 0 {
			f := finder(c.env)
			f.Ask = func(context.Context, string) ([]byte, error) { return nil, io.EOF }
			p, err = f.Find(t.Context(), "passphrase")
		}
		if !errors.Is(err, c.err) || string(p.Bytes()) != c.want {
			t.Errorf("case %d: %q, %v", i, p.Bytes(), err)
		}
	}
}

func TestCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the commands are those of a Unix shell")
	}
	find := func(ctx context.Context, line string) (Passphrase, error) {
		return finder(map[string]string{"PACKHOLD_PASSPHRASE_COMMAND": line}).Find(ctx, "passphrase")
	}
	if p, err := find(t.Context(), "printf '%s\\n' 'from a command' | cat"); err != nil || string(p.Bytes()) != "from a command" {
		t.Errorf("%q, %v", p.Bytes(), err)
	}
	_, err := find(t.Context(), "echo half; exit 7")
	if !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "echo half; exit 7") {
		t.Error(err)
	}
	if _, err := find(t.Context(), "yes"); !errors.Is(err, ErrSource) {
		// yes never ends by itself: only its closed or full pipe could stop it, so a limit must.
		t.Error(err)
	}
}

func TestCommandIsCancelled(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the commands are those of a Unix shell")
	}
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	began := time.Now()
	_, err := finder(map[string]string{"PACKHOLD_PASSPHRASE_COMMAND": "exec sleep 60"}).Find(ctx, "passphrase")
	if err != why || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestNew(t *testing.T) {
	const good = "five random words, kept well"
	for _, c := range []struct {
		answers []string
		want    string
		err     error
	}{
		{[]string{good, good}, good, nil},
		{[]string{"short", good, "other", good, good}, good, nil},
		{[]string{"short", "short", "short", good, good}, "", ErrShort},
		{[]string{good, "a", good, "b", good, "c"}, "", ErrMismatch},
		{[]string{strings.Repeat("ab", 6) + "c"}, "", ErrShort}, // 13 bytes; 14 below
		{[]string{"abcdefghijklmn", "abcdefghijklmn"}, "abcdefghijklmn", nil},
	} {
		var said []string
		answers := c.answers
		for len(answers) < 3 {
			answers = append(answers, answers[len(answers)-1])
		}
		p, err := finder(nil, answers...).FindNew(t.Context(), "passphrase", func(s string) { said = append(said, s) })
		if !errors.Is(err, c.err) || c.err == nil && string(p.Bytes()) != c.want {
			t.Errorf("%q: %q, %v, said %q", c.answers, p.Bytes(), err, said)
		}
	}
	for text, want := range map[string]error{"thirteen byte": ErrShort, "fourteen bytes": nil} {
		if _, err := finder(map[string]string{"PACKHOLD_PASSPHRASE": text}).FindNew(t.Context(), "passphrase", nil); !errors.Is(err, want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := finder(nil).FindNew(t.Context(), "passphrase", nil); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func TestNothingPrintsIt(t *testing.T) {
	p := Of([]byte("hunter2"))
	holder := struct{ P Passphrase }{p}
	data, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(p), fmt.Sprintf("%v %+v %#v %s %q %x %d", p, p, p, p, p, p, p), fmt.Sprintf("%+v %#v", holder, &holder), string(data)} {
		if strings.Contains(s, "hunter2") || strings.Contains(s, "68756e") || strings.Contains(s, "104") || !strings.Contains(s, "(hidden)") {
			t.Errorf("printed as %s", s)
		}
	}
	p.Zero()
	if string(p.Bytes()) != "\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%q is left", p.Bytes())
	}
}

func TestHint(t *testing.T) {
	for _, weak := range []string{"aaaaaaaaaaaaaaaa", "abababababababab", "12345678901234", "abcdefghijklmnop", "83619274018365", "correcthorsebat", "short word here"} {
		if Hint([]byte(weak)) == "" {
			t.Errorf("%q passes", weak)
		}
	}
	for _, fine := range []string{"correct horse battery staple", "x9$Kp2!vLq7&Zt", "größe hügel über"} {
		if hint := Hint([]byte(fine)); hint != "" {
			t.Errorf("%q: %s", fine, hint)
		}
	}
}
