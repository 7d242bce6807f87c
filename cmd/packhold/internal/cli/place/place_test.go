package place

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/backends/s3"
	"packhold/cmd/packhold/internal/cli/config"
)

// bad is a storage that lacks something.
type bad struct {
	backends.Storage
	replaces, loses, hides, keeps, garbles, breaks bool
}

func (b bad) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	if b.replaces {
		o.IfAbsent = false
	}
	if b.loses {
		return nil
	}
	return b.Storage.Put(ctx, name, data, o)
}

func (b bad) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	data, err := b.Storage.Get(ctx, name, off, n)
	if b.garbles && len(data) > 0 {
		data[0]++
	}
	return data, err
}

func (b bad) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	if b.hides {
		return func(func(backends.Info, error) bool) {}
	}
	return b.Storage.List(ctx, prefix)
}

func (b bad) Delete(ctx context.Context, name string) error {
	if b.keeps {
		return fmt.Errorf("append-only: %w", fs.ErrPermission)
	}
	if b.breaks {
		return errors.New("connection reset")
	}
	return b.Storage.Delete(ctx, name)
}

// TestTest waits for the end of a lock, in a bubble's time.
func TestTest(t *testing.T) { synctest.Test(t, testTest) }

func testTest(t *testing.T) {
	for name, c := range map[string]struct {
		bad
		lacks string // needed and not there
		left  int
		say   string // of deleting
	}{
		"good":       {bad{}, "", 0, ""},
		"replaces":   {bad{replaces: true}, "exclusive create, exclusive create, many at once", 0, ""},
		"loses":      {bad{loses: true}, "read, describe, list, exclusive create, exclusive create, many at once", 0, ""},
		"hides":      {bad{hides: true}, "list", 0, ""},
		"garbles":    {bad{garbles: true}, "read, exclusive create", 0, ""},
		"appendonly": {bad{keeps: true}, "", 3, "refused: an append-only place"},
		"breaks":     {bad{breaks: true}, "", 3, "connection reset"}, // says nothing of what the place allows
	} {
		c.Storage = mem.New(time.Now)
		list, err := Test(t.Context(), c.bad, time.Now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var lacks []string
		for _, f := range list {
			if f.Needed && !f.OK {
				lacks = append(lacks, f.What)
			}
			if f.What == "delete" && (f.OK != (c.say == "") || !strings.HasPrefix(f.Detail, c.say)) {
				t.Errorf("%s: deleting: %+v, want %q", name, f, c.say)
			}
		}
		if got := strings.Join(lacks, ", "); got != c.lacks {
			t.Errorf("%s lacks %q, want %q", name, got, c.lacks)
		}
		left := 0
		for range c.Storage.List(t.Context(), "") {
			left++
		}
		if left != c.left {
			t.Errorf("%s: %d files are left", name, left)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Test(ctx, mem.New(time.Now), time.Now); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMemory(t *testing.T) {
	now := time.Unix(1e9, 0)
	o := Options{Memory: filepath.Join(t.TempDir(), "places"), Now: func() time.Time { return now }}
	place := func(s string) config.Location {
		l, err := config.ParseLocation(s)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one, two := place("s3://host/one"), place("s3://host/two")
	if recall(o, one) != nil {
		t.Error("something is known of a new place")
	}
	remember(o, one, memory{S3: s3.Abilities{Conditional: true}, Region: "r"})
	if m := recall(o, one); m == nil || !m.S3.Conditional || m.S3.ObjectLock || m.Region != "r" {
		t.Errorf("%+v", m)
	}
	if recall(o, two) != nil {
		t.Error("another place is known")
	}
	now = now.Add(trusted + time.Hour)
	if recall(o, one) != nil {
		t.Error("what was found out long ago still counts")
	}
	now = now.Add(-2 * time.Hour)
	Forget(o, one)
	if recall(o, one) != nil {
		t.Error("it was to be forgotten")
	}
	if err := os.WriteFile(memoryFile(o.Memory, one), []byte("{"), 0o600); err != nil || recall(o, one) != nil {
		t.Errorf("half a file: %v", err)
	}
	remember(Options{Now: o.Now}, one, memory{})
	if recall(Options{Now: o.Now}, one) != nil {
		t.Error("without a folder nothing is known")
	}
}

func TestOptionsS3(t *testing.T) {
	env := map[string]string{"AWS_REGION": "from-env", "HOME": "/h"}
	o := Options{Getenv: func(name string) string { return env[name] }}
	so, err := optionsS3(config.Storage{Bucket: "b", Addressing: "path", PackClass: "GLACIER_IR", PlainHTTP: true}, o)
	if err != nil || so.Region != "from-env" || so.Addressing != s3.PathStyle || so.Classes["packs/"] != "GLACIER_IR" || len(so.Credentials) != 3 || !so.PlainHTTP || so.Conn != nil {
		t.Errorf("%+v, %v", so, err)
	}
	o.Up = 1 << 20
	if so, err = optionsS3(config.Storage{Bucket: "b", Region: "said", Profile: "p", Addressing: "virtual-host"}, o); err != nil || so.Region != "said" ||
		so.Addressing != s3.VirtualHost || len(so.Credentials) != 1 || so.Conn == nil {
		t.Errorf("%+v, %v", so, err)
	}
	if _, err := optionsS3(config.Storage{Bucket: "b", CAFile: "/nowhere.pem"}, o); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
