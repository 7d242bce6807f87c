package locking

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/repo/format"
	"packhold/repo/writeonce"
)

const day = 24 * time.Hour

// A length is the longest that a period can be, so that a promise holds whenever it is made; ten years are just what the format allows.
func TestLength(t *testing.T) {
	for text, want := range map[string]int{"24h": 1, "1d": 1, "30d": 30, "2w": 14, "1m": 31, "1y": 366, "7y": 2557, "10y": 3653, "1y6m": 366 + 184} {
		if got, err := Length(text); err != nil || got != time.Duration(want)*day {
			t.Errorf("%s is %v, %v, want %d days", text, got, err, want)
		}
	}
	if d, _ := Length("10y"); d != format.MaxLock*time.Second {
		t.Errorf("ten years are %v", d)
	}
	for _, text := range []string{"", "0d", "23h", "10y1d", "9999y", "30", "-1d", "d", "1.5y"} {
		if got, err := Length(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// flags parses a command line as init has it.
func flags(t *testing.T, args ...string) (v run.Values) {
	t.Helper()
	app := &cli.App{Flags: Flags(), DisableSliceFlagSeparator: true, Action: func(c *cli.Context) error {
		v = c
		return nil
	}}
	if err := app.Run(append([]string{"init"}, args...)); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPolicy(t *testing.T) {
	for args, want := range map[string]writeonce.Policy{
		"":                {},
		"--immutable 30d": {Length: 30 * day},
		"--immutable 30d --immutable 1y=90d --immutable 7y=7y": {Length: 30 * day, Classes: map[string]time.Duration{"1y": 90 * day, "7y": 2557 * day}},
		"--immutable 1y=90d --immutable 30d":                   {Length: 30 * day, Classes: map[string]time.Duration{"1y": 90 * day}},
		"--immutable 30d --immutable-mode governance":          {Length: 30 * day},
		"--immutable 30d --immutable-mode compliance":          {Length: 30 * day, Compliance: true},
	} {
		if got, err := Policy(flags(t, strings.Fields(args)...)); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %v, %v", args, got, err)
		}
	}
	for _, args := range []string{
		"--immutable 1h", "--immutable 11y", "--immutable 7y=7y", "--immutable =7y", "--immutable 30d --immutable 7y=", "--immutable 30d --immutable a=7y",
		"--immutable 30d --immutable 30d", "--immutable 30d --immutable 7y=7y --immutable 7y=6y", "--immutable-mode compliance", "--yes-compliance b",
		"--immutable 30d --immutable-mode soft", "--immutable 30d --yes-compliance b",
	} {
		_, err := Policy(flags(t, strings.Fields(args)...))
		if f, ok := errors.AsType[*fail.Error](err); !ok || f.Code != fail.Usage {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestConfirm: compliance mode is meant only by who types the bucket's name.
func TestConfirm(t *testing.T) {
	bucket := config.Location{Type: "s3", Storage: config.Storage{Bucket: "backups"}}
	compliance := writeonce.Policy{Length: 30 * day, Classes: map[string]time.Duration{"7y": 2557 * day}, Compliance: true}
	for what, c := range map[string]struct {
		policy writeonce.Policy
		place  config.Location
		args   string
		typed  string // at a terminal, if not empty
		ok     bool
	}{
		"governance":        {writeonce.Policy{Length: day}, bucket, "", "", true},
		"no terminal":       {compliance, bucket, "", "", false},
		"typed":             {compliance, bucket, "", "backups", true},
		"typed another":     {compliance, bucket, "", "yes", false},
		"flag":              {compliance, bucket, "--yes-compliance backups", "", true},
		"another flag":      {compliance, bucket, "--yes-compliance backup", "backups", false},
		"empty flag":        {compliance, bucket, "--yes-compliance=", "backups", false},
		"a local place":     {compliance, config.Location{Type: "local"}, "", "backups", false},
		"an SFTP place":     {compliance, config.Location{Type: "sftp"}, "--yes-compliance backups", "", false},
		"typed with spaces": {compliance, bucket, "", "backups ", false},
	} {
		var out bytes.Buffer
		env := &run.Env{Stderr: &out, Stdout: &out}
		asked := 0
		if c.typed != "" {
			env.Ask = func(context.Context, string) ([]byte, error) {
				asked++
				return []byte(c.typed), nil
			}
		}
		a := run.New(env, func(error) {})
		err := Confirm(t.Context(), a, flags(t, strings.Fields("--immutable 30d "+c.args)...), c.policy, c.place)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
		if asked > 0 && !strings.Contains(out.String(), "up to 3,196.2 days") && !strings.Contains(out.String(), "up to 3196.2 days") {
			t.Errorf("%s: it says %q", what, &out)
		}
	}
}

// TestCheck: a place that cannot keep files is refused, with what to do.
func TestCheck(t *testing.T) {
	a := run.New(&run.Env{Now: time.Now}, func(error) {})
	p := writeonce.Policy{Length: day}
	for kind, next := range map[string]string{"s3": "aws s3api create-bucket --object-lock-enabled-for-bucket", "sftp": "packhold help serve", "local": "ext4"} {
		l := config.Location{Type: kind, Storage: config.Storage{Bucket: "b"}}
		if err := Check(t.Context(), a, mem.New(time.Now), p, l); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		err := Check(t.Context(), a, unable{mem.New(time.Now)}, p, l)
		if f, ok := errors.AsType[*fail.Error](err); !ok || f.Code != fail.Usage || !strings.Contains(f.Next, next) {
			t.Errorf("%s: %v", kind, err)
		}
		if err := Check(t.Context(), a, unable{mem.New(time.Now)}, writeonce.Policy{}, l); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// unable is a storage that keeps no files.
type unable struct{ *mem.Store }

func (unable) Put(context.Context, string, []byte, backends.PutOptions) error {
	return backends.ErrUnsupported
}
