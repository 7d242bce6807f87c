package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The requirement's examples, as printed there.
const (
	required = `{
  "jobs": [
    {
      "source": "/critical/data",
      "type": "incremental",
      "schedule": "0 2 * * *",  # 2AM daily
      "retention": "30d"
    }
  ]
}`
	requiredStorage = `{"storage": %s}`
)

func TestRequirement(t *testing.T) {
	f, err := Parse([]byte(required))
	if err != nil {
		t.Fatal(err)
	}
	want := Job{Source: Strings{"/critical/data"}, Type: "incremental", Schedule: "0 2 * * *", Retention: "30d"}
	if len(f.Jobs) != 1 || !reflect.DeepEqual(f.Jobs[0], want) {
		t.Errorf("%+v", f.Jobs)
	}
	if j, ok := f.Job("/critical/data"); !ok || j.Type != "incremental" {
		t.Error("the job is not found by its source")
	}
	for storage, want := range map[string]string{
		`{"type": "local", "path": "/backups"}`:                                    filepath.Clean("/backups"),
		`{"type": "sftp", "host": "backup.example.com"}`:                           "sftp://backup.example.com/~/packhold",
		`{"type": "s3", "bucket": "my-backups"}`:                                   "s3://s3.amazonaws.com/my-backups",
		`{"type": "sftp", "host": "::1", "port": 22, "user": "u", "path": "/a b"}`: "sftp://u@[::1]:22/a%20b",
	} {
		f, err := Parse(fmt.Appendf(nil, requiredStorage, storage))
		if err != nil {
			t.Errorf("%s: %v", storage, err)
			continue
		}
		l := f.Storage.Location()
		if l.String() != want {
			t.Errorf("%s is at %s", storage, l)
		}
		said := *f.Storage
		if l.Type == "sftp" && said.Path == "" {
			said.Path = "packhold" // the default
		}
		if l.Type != "local" && !reflect.DeepEqual(l.Storage, said) {
			t.Errorf("%s: %+v", storage, l.Storage)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		text         string
		line, column int
		part, meant  string
	}{
		{``, 1, 1, "unexpected EOF", ""},
		{"{\n  \"jobs\": [}\n}", 2, 12, "invalid character", ""},
		{"\n[]", 2, 1, "must be an object, not a list", ""},
		{"{}\n{}", 2, 1, "after top-level value", ""},
		{"{\n\t\"compresion\": \"auto\"}", 2, 2, `unknown field "compresion"`, "compression"},
		{`{"Jobs": []}`, 1, 2, `unknown field "Jobs"`, "jobs"},
		{`{"jobs": [{"source": "/a", "shedule": "@daily"}]}`, 1, 28, "unknown field", "schedule"},
		{`{"jobs": [], "jobs": []}`, 1, 14, "given twice", ""},
		{`{"exclude_caches": "yes"}`, 1, 20, "exclude_caches must be true or false, not a string", ""},
		{`{"exclude": 5}`, 1, 13, "exclude must be a string or a list of strings, not a number", ""},
		{`{"exclude": ["a", null]}`, 1, 19, "exclude[1] must be a string, not null", ""},
		{`{"exclude": ["a", ""]}`, 1, 19, `exclude[1] is ""`, ""},
		{`{"jobs": {}}`, 1, 10, "jobs must be a list, not an object", ""},
		{`{"jobs": [{"type": "full"}]}`, 1, 11, "needs a source", ""},
		{`{"jobs": [{"source": []}]}`, 1, 22, "needs a source", ""},
		{`{"jobs": [{"source": "data"}]}`, 1, 22, "not an absolute path", ""},
		{`{"jobs": [{"source": ["/a", "data"]}]}`, 1, 29, "not an absolute path", ""},
		{`{"jobs": [{"source": "/a"}, {"source": "/a"}]}`, 1, 29, "two jobs", ""},
		{`{"jobs": [{"source": "/a", "type": "incrmental"}]}`, 1, 36, "must be one of", "incremental"},
		{`{"jobs": [{"source": "/a", "type": ""}]}`, 1, 36, "must be one of", ""},
		{`{"jobs": [{"source": "/a", "schedule": "0 25 * * *"}]}`, 1, 40, "hour cannot be", ""},
		{`{"jobs": [{"source": "/a", "retention": "30 days"}]}`, 1, 41, "not a period", ""},
		{`{"jobs": [{"source": "/a", "name": ""}]}`, 1, 36, "empty", ""},
		{`{"storage": {}}`, 1, 13, "needs a type", ""},
		{`{"storage": {"type": "loca"}}`, 1, 22, "must be one of", "local"},
		{`{"storage": {"type": "local"}}`, 1, 13, "needs a path", ""},
		{`{"storage": {"type": "local", "path": "x"}}`, 1, 39, "not an absolute path", ""},
		{`{"storage": {"type": "s3", "path": "/x", "bucket": "b"}}`, 1, 36, "does not belong to storage type s3", ""},
		{`{"storage": {"type": "sftp", "host": "h", "port": 0}}`, 1, 51, "1 to 65535", ""},
		{`{"storage": {"type": "sftp", "host": "h", "port": 2.5}}`, 1, 51, "whole number", ""},
		{`{"storage": {"type": "sftp", "host": "h", "port": 99999999999999999999}}`, 1, 71, "does not fit", ""},
		{"{\"exclude\": \"\xff\"}", 1, 14, "UTF-8", ""},
		{"\xff\xfe{\x00", 1, 1, "UTF-16", ""},
		{strings.Repeat("[", 100000), 1, maxDepth + 1, "deeper", ""},
		{strings.Repeat(" ", MaxFile+1), 1, 1, "larger", ""},
	} {
		_, err := Parse([]byte(c.text))
		p, ok := err.(*Problem)
		if !ok || p.Line != c.line || p.Column != c.column || !strings.Contains(p.Text, c.part) || p.Meant != c.meant {
			t.Errorf("%.60q: %v", c.text, err)
		}
	}
}

func TestComments(t *testing.T) {
	for _, text := range []string{
		"\xef\xbb\xbf{}", "{} // x", "{} # x", "# {\n{}", "/* # */ {} ", "{\"exclude\": [\"a#b\", \"//c\", \"\\\"#\"],}", "// \" # \n{}", "/* \" */{} # \"",
	} {
		f, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if len(f.Exclude) > 0 && !slices.Equal(f.Exclude, Strings{"a#b", "//c", `"#`}) {
			t.Errorf("%q: %q", text, f.Exclude)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{required, Sample("/x"), `{"storage": {"type": "s3", "bucket": "b"}}`, "{#\n}", `{"a":"\`, "/*", `"\`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			if p, ok := err.(*Problem); !ok || p.Line < 1 || p.Column < 1 {
				t.Fatalf("%q: error without a place: %v", data, err)
			}
			return
		}
		if file.Storage != nil && file.Storage.Location().String() == "" {
			t.Fatalf("%q: no location", data)
		}
	})
}

func TestSchedule(t *testing.T) {
	for _, s := range []string{"0 2 * * *", "*/15 0-6,12 1 jan-mar mon,7", "59 23 31 12 7", "@daily", "0  2 * * SUN", "1-5/2 * * * *"} {
		if err := CheckSchedule(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 8", "5-1 * * * *",
		"*/0 * * * *", "*/x * * * *", "5/2 * * * *", "a * * * *", "-1 * * * *", "1,,2 * * * *", "* * * ja *", "* * * anf *", "@often", "TZ=0 * * * *", "1- * * * *"} {
		if CheckSchedule(s) == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

// uncommented is the sample with every example switched on.
func uncommented(sample string) string {
	return regexp.MustCompile(`(?m)^(\s*)// *(["{}])`).ReplaceAllString(sample, "$1$2")
}

func TestSample(t *testing.T) {
	path := `/srv/"odd"\path`
	if f, err := Parse([]byte(Sample(path))); err != nil || f.Storage.Path != path || len(f.Jobs) != 0 {
		t.Errorf("%+v, %v", f, err)
	}
	full := uncommented(Sample("/x"))
	f, err := Parse([]byte(full))
	if err != nil {
		t.Fatalf("%v in\n%s", err, full)
	}
	// Every field is in it, those of other storage types aside, and every example differs from the zero value.
	for _, v := range []any{*f, f.Jobs[0]} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			name := typ.Field(i).Tag.Get("json")
			if !strings.Contains(full, `"`+name+`"`) {
				t.Errorf("%s: field %s is not in the sample", typ, name)
			}
		}
	}
}

// schemaNode is as much of JSON Schema as ours uses.
type schemaNode struct {
	Ref        string                 `json:"$ref"`
	Type       string                 `json:"type"`
	Enum       []string               `json:"enum"`
	Pattern    string                 `json:"pattern"`
	MinLength  int                    `json:"minLength"`
	MinItems   int                    `json:"minItems"`
	Minimum    *float64               `json:"minimum"`
	Maximum    *float64               `json:"maximum"`
	Properties map[string]*schemaNode `json:"properties"`
	Additional *bool                  `json:"additionalProperties"`
	Required   []string               `json:"required"`
	Items      *schemaNode            `json:"items"`
	OneOf      []*schemaNode          `json:"oneOf"`
	Defs       map[string]*schemaNode `json:"$defs"`
	About      string                 `json:"description"`
	Title      string                 `json:"title"`
	Dialect    string                 `json:"$schema"`
}

func parseSchema(t *testing.T) *schemaNode {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(Schema()))
	d.DisallowUnknownFields() // a word that allows does not know would go unchecked
	root := new(schemaNode)
	if err := d.Decode(root); err != nil {
		t.Fatal(err)
	}
	return root
}

func (s *schemaNode) resolve(root *schemaNode) *schemaNode {
	if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
		return root.Defs[name]
	}
	return s
}

func (s *schemaNode) allows(root *schemaNode, v any) bool {
	s = s.resolve(root)
	if s.OneOf != nil {
		n := 0
		for _, o := range s.OneOf {
			if o.allows(root, v) {
				n++
			}
		}
		return n == 1
	}
	if s.Enum != nil {
		text, ok := v.(string)
		return ok && slices.Contains(s.Enum, text)
	}
	switch s.Type {
	case "boolean":
		_, ok := v.(bool)
		return ok
	case "integer":
		n, ok := v.(float64)
		return ok && n == float64(int64(n)) && n >= *s.Minimum && n <= *s.Maximum
	case "string":
		text, ok := v.(string)
		return ok && len(text) >= s.MinLength && regexp.MustCompile(s.Pattern).MatchString(text)
	case "array":
		list, ok := v.([]any)
		for _, e := range list {
			ok = ok && s.Items.allows(root, e)
		}
		return ok && len(list) >= s.MinItems
	case "object":
		m, ok := v.(map[string]any)
		for name, e := range m {
			p, known := s.Properties[name]
			ok = ok && known && p.allows(root, e)
		}
		for _, name := range s.Required {
			_, given := m[name]
			ok = ok && given
		}
		return ok && s.Additional != nil && !*s.Additional
	}
	panic("schema without a type")
}

func TestSchemaHasTheFields(t *testing.T) {
	root := parseSchema(t)
	storage := make(map[string]*schemaNode)
	for _, o := range root.Defs["storage"].OneOf {
		for name, p := range o.Properties {
			storage[name] = p
		}
	}
	for _, c := range []struct {
		typ   reflect.Type
		props map[string]*schemaNode
	}{{reflect.TypeFor[File](), root.Properties}, {reflect.TypeFor[Job](), root.Defs["job"].Properties}, {reflect.TypeFor[Storage](), storage}} {
		names := fieldNames(c.typ)
		for name := range c.props {
			if !slices.Contains(names, name) {
				t.Errorf("%v: the schema has %s, the struct has not", c.typ, name)
			}
		}
		for _, name := range names {
			if c.props[name] == nil {
				t.Errorf("%v: the struct has %s, the schema has not", c.typ, name)
			}
		}
	}
	for name, want := range map[string][]string{"compression": Compressions(), "type": BackupTypes()} {
		if got := root.Defs["job"].Properties[name].resolve(root).Enum; !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %q, the program %q", name, got, want)
		}
	}
}

// What the schema allows, Parse accepts, and the other way round, but for what a schema cannot say.
func TestSchemaAgrees(t *testing.T) {
	root := parseSchema(t)
	for _, c := range []string{
		`{}`, `[]`, `{"x": 1}`, `{"compression": "best"}`, `{"limit_upload": "2M"}`, `{"limit_upload": "1.5M", "limit_download": "20000"}`, `{"limit_upload": "fast"}`, `{"limit_download": "10"}`, `{"limit_upload": 5}`, `{"compression": "zip"}`, `{"exclude": []}`, `{"exclude": ["a"]}`, `{"exclude": "a"}`, `{"exclude": ""}`,
		`{"exclude": 1}`, `{"exclude_caches": true}`, `{"exclude_caches": 1}`, `{"tags": [null]}`, `{"jobs": []}`, `{"jobs": {}}`, `{"jobs": [{}]}`, `{"storage": null}`,
		`{"jobs": [{"source": "/a"}]}`, `{"jobs": [{"source": []}]}`, `{"jobs": [{"source": ["/a", "/b"], "name": "n"}]}`, `{"jobs": [{"source": "/a", "name": ""}]}`,
		`{"jobs": [{"source": "/a", "type": "full"}]}`, `{"jobs": [{"source": "/a", "type": "Full"}]}`, `{"jobs": [{"source": "/a", "schedule": "@daily"}]}`,
		`{"jobs": [{"source": "/a", "schedule": "daily"}]}`, `{"jobs": [{"source": "/a", "schedule": "0 2 * * *"}]}`, `{"jobs": [{"source": "/a", "retention": "30d"}]}`,
		`{"jobs": [{"source": "/a", "retention": "1y6m"}]}`, `{"jobs": [{"source": "/a", "retention": ""}]}`, `{"jobs": [{"source": "/a", "retention": "1d1y"}]}`,
		`{"jobs": [{"source": "/a", "exclude_caches": false, "one_file_system": true, "tags": "t", "exclude_file": "/f"}]}`,
		`{"storage": {"type": "local", "path": "/a"}}`, `{"storage": {"type": "local"}}`, `{"storage": {"type": "local", "path": "/a", "host": "h"}}`, `{"storage": {"path": "/a"}}`,
		`{"storage": {"type": "sftp", "host": "h", "port": 22}}`, `{"storage": {"type": "sftp", "host": "h", "port": 70000}}`, `{"storage": {"type": "sftp", "host": "h", "port": 2.5}}`,
		`{"storage": {"type": "s3", "bucket": "b", "endpoint": "e", "prefix": "p"}}`, `{"storage": {"type": "s3", "bucket": "b", "plain_http": true, "connections": 4, "addressing": "path", "read_back": true}}`,
		`{"storage": {"type": "s3", "bucket": "b", "connections": 0}}`, `{"storage": {"type": "s3", "bucket": "b", "addressing": "x"}}`, `{"storage": {"type": "s3", "bucket": "b", "plain_http": 1}}`,
		`{"storage": {"type": "sftp", "host": "h", "identity_file": "/k", "known_hosts": ["/a", "/b"], "command": ["ssh", "x"], "connections": 65}}`,
		`{"storage": {"type": "sftp", "host": "h", "identity_file": "/k", "known_hosts": ["/a", "/b"], "command": ["ssh", "x"], "connections": 2}}`, `{"storage": {"type": "s3"}}`, `{"storage": {"type": "ftp"}}`, `{"$schema": "x"}`,
	} {
		var v any
		if err := json.Unmarshal([]byte(c), &v); err != nil {
			t.Fatal(err)
		}
		_, err := Parse([]byte(c))
		if allowed := root.allows(root, v); allowed != (err == nil) {
			t.Errorf("%s: the schema says %v, the program %v", c, allowed, err)
		}
	}
}

func env(pairs ...string) func(string) string {
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

func TestFolders(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the folders are those of Unix")
	}
	for _, c := range []struct {
		env  func(string) string
		want Folders
		err  error
	}{
		{env("HOME", "/h"), Folders{"/h/.config/packhold", "/h/.cache/packhold", "/h/.local/state/packhold", "/h/.local/share/packhold"}, nil},
		{env("HOME", "/h", "XDG_CONFIG_HOME", "/c", "XDG_CACHE_HOME", "relative", "XDG_DATA_HOME", "/d"), Folders{"/c/packhold", "/h/.cache/packhold", "/h/.local/state/packhold", "/d/packhold"}, nil},
		{env("PACKHOLD_CONFIG_DIR", "/1", "PACKHOLD_CACHE_DIR", "/2", "PACKHOLD_STATE_DIR", "/3/"), Folders{"/1", "/2", "/3", ""}, nil},
		{env("PACKHOLD_CONFIG_DIR", "/1"), Folders{Config: "/1"}, ErrNoHome},
	} {
		got, err := FindFolders(c.env)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("got %+v, %v; want %+v, %v", got, err, c.want, c.err)
		}
	}
}

func TestParseLocation(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"sftp://u@host:22/p": "sftp sftp://u@host:22/p", "sftp://host/~/x": "sftp sftp://host/~/x", "s3://endpoint/bucket/p": "s3 s3://endpoint/bucket/p",
		"s3:http://h:9000/bucket": "s3 s3:http://h:9000/bucket", "a:b": "local " + filepath.Join(wd, "a:b"), "sub/dir/": "local " + filepath.Join(wd, "sub/dir"), ".": "local " + wd,
	} {
		l, err := ParseLocation(in)
		if got := l.Type + " " + l.String(); err != nil || got != want || (l.Type == "local") != (l.Path != "") {
			t.Errorf("%q is %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a\x00b", "https://user:secret@x/y", "sftp://host", "sftp:///p", "s3:bucket", "s3://endpoint", "rest://x/y", "sftp://u:secret@host:22/p", "s3://key:secret@host/bucket", "s3:ftp://host/bucket"} {
		l, err := ParseLocation(in)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q is %v, %v", in, l, err)
		}
	}
}

// TestShownLocation: what is shown of a place in a file names the same place to --repo.
func TestShownLocation(t *testing.T) {
	for _, c := range []struct {
		in   Storage
		want string
	}{
		{Storage{Type: "sftp", Host: "host"}, "sftp://host/~/packhold"},
		{Storage{Type: "sftp", Host: "host", Path: "backup"}, "sftp://host/~/backup"},
		{Storage{Type: "sftp", Host: "host", Path: "~/backup"}, "sftp://host/~/~/backup"},
		{Storage{Type: "sftp", Host: "host", Path: "/srv/a b"}, "sftp://host/srv/a%20b"},
		{Storage{Type: "sftp", Host: "host", Path: ".", User: "u", Port: 2022}, "sftp://u@host:2022/~/."},
		{Storage{Type: "sftp", Host: "::1", Path: "/srv"}, "sftp://[::1]/srv"},
		{Storage{Type: "s3", Bucket: "b", Endpoint: "e", Prefix: "p/q"}, "s3://e/b/p/q"},
		{Storage{Type: "s3", Bucket: "b", Endpoint: "e:9000", PlainHTTP: true}, "s3:http://e:9000/b"},
	} {
		l := c.in.Location()
		if l.String() != c.want {
			t.Errorf("%+v is shown as %s, want %s", c.in, l, c.want)
		}
		back, err := ParseLocation(l.String())
		if err != nil || !reflect.DeepEqual(back.Storage, l.Storage) || back.String() != l.String() {
			t.Errorf("%s is %+v, %v; was %+v", l, back, err, l.Storage)
		}
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(`{"storage": {"type": "local", "path": "/from/file"}, "tags": "t"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags  Flags
		env    func(string) string
		repo   string
		origin Origin
		file   Origin
	}{
		{Flags{}, env("PACKHOLD_CONFIG_DIR", dir, "HOME", dir), "/from/file", FromFile, FromDefault},
		{Flags{}, env("PACKHOLD_CONFIG", path, "HOME", dir, "PACKHOLD_REPOSITORY", "/from/env"), "/from/env", "environment PACKHOLD_REPOSITORY", "environment PACKHOLD_CONFIG"},
		{Flags{Repository: "/from/flag", Config: path}, env("PACKHOLD_CONFIG", "/missing", "PACKHOLD_REPOSITORY", "/from/env"), "/from/flag", FromFlag, FromFlag},
		{Flags{}, env("HOME", "/nobody"), "/nobody/.local/share/packhold/repository", FromDefault, ""},
	} {
		if runtime.GOOS == "windows" {
			t.Skip("the paths are those of Unix")
		}
		s, err := Load(c.flags, c.env)
		if err != nil || s.Repository.Path != c.repo || s.RepositoryOrigin != c.origin || s.PathOrigin != c.file {
			t.Errorf("%+v, %v; want %+v", s, err, c)
		}
	}
	_, err := Load(Flags{Config: filepath.Join(dir, "no")}, env("HOME", dir))
	if file := (*FileError)(nil); !errors.As(err, &file) || !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Load(Flags{}, env()); !errors.Is(err, ErrNoHome) {
		t.Error(err)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	e := env("HOME", "/h", "PACKHOLD_REPOSITORY", "sftp://u@h/p", "PACKHOLD_PASSPHRASE", "hunter2", "AWS_SECRET_ACCESS_KEY", "hunter2", "PACKHOLD_NEW_PASSPHRASE", "hunter2", "AWS_SESSION_TOKEN", "hunter2")
	s, err := Load(Flags{}, e)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v", s.Entries(e))
	if strings.Contains(all, "hunter2") || strings.Count(all, "(hidden)") != 4 {
		t.Error(all)
	}
}
