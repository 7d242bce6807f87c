package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"

	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/retain"
)

// MaxFile is the size in bytes above which a configuration file is refused before it is parsed: a thousand jobs take a
// tenth of it.
const MaxFile = 1 << 20

// maxDepth is how deep brackets may nest; the grammar needs four. The parser recurses, so it is asked first.
const maxDepth = 32

// Problem is an error at a place in the configuration file.
type Problem struct {
	Line, Column int // from 1; columns count bytes
	Text         string
	Meant        string // a near known word, or ""
}

// Error returns "line L, column C: text".
func (p *Problem) Error() string {
	s := fmt.Sprintf("line %d, column %d: %s", p.Line, p.Column, p.Text)
	if p.Meant != "" {
		s += fmt.Sprintf(" (did you mean %s?)", p.Meant)
	}
	return s
}

// Parse reads a configuration file. Every error is a *Problem.
func Parse(data []byte) (*File, error) {
	d := &decoder{data: bytes.Clone(data), at: make(map[string]int)}
	f := new(File)
	if err := d.parse(f); err != nil {
		return nil, err
	}
	if err := d.check(f); err != nil {
		return nil, err
	}
	return f, nil
}

type decoder struct {
	data []byte         // comments blanked in place, so offsets stay those of the file
	at   map[string]int // offset of the value at a path such as jobs[0].type
}

// problem makes an error at an offset.
func (d *decoder) problem(offset int, meant, format string, args ...any) *Problem {
	offset = min(max(offset, 0), len(d.data))
	before := d.data[:offset]
	return &Problem{
		Line: 1 + bytes.Count(before, []byte("\n")), Column: offset - bytes.LastIndexByte(before, '\n'),
		Text: fmt.Sprintf(format, args...), Meant: meant,
	}
}

func (d *decoder) parse(f *File) error {
	if len(d.data) > MaxFile {
		return d.problem(0, "", "the file is larger than %s", term.Bytes(MaxFile))
	}
	if bytes.HasPrefix(d.data, []byte("\xef\xbb\xbf")) {
		copy(d.data, "   ")
	}
	if bytes.HasPrefix(d.data, []byte("\xff\xfe")) || bytes.HasPrefix(d.data, []byte("\xfe\xff")) {
		return d.problem(0, "", "the file is UTF-16; save it as UTF-8")
	}
	for i := 0; i < len(d.data); {
		r, n := utf8.DecodeRune(d.data[i:])
		if r == utf8.RuneError && n == 1 {
			return d.problem(i, "", "not valid UTF-8")
		}
		i += n
	}
	if at := blankComments(d.data); at >= 0 {
		return d.problem(at, "", "brackets nest deeper than %d", maxDepth)
	}
	v, err := hujson.Parse(d.data)
	if err != nil {
		return d.syntax(err)
	}
	if err := d.walk(&v, reflect.TypeFor[File](), ""); err != nil {
		return err
	}
	v.Standardize()
	// walk has checked names and kinds; what can still fail is the range of a number.
	if err := json.Unmarshal(v.Pack(), f); err != nil {
		if typed, ok := err.(*json.UnmarshalTypeError); ok {
			return d.problem(int(typed.Offset), "", "%s does not fit %s", typed.Value, typed.Field)
		}
		return d.problem(0, "", "%v", err)
	}
	return nil
}

// syntax takes the place out of the parser's error text, the only form in which it gives it.
func (d *decoder) syntax(err error) error {
	p := &Problem{Line: 1, Column: 1, Text: err.Error()}
	var line, column int
	if n, _ := fmt.Sscanf(p.Text, "hujson: line %d, column %d:", &line, &column); n == 2 {
		p.Line, p.Column = line, column
		p.Text = p.Text[strings.Index(p.Text, ": ")+2:]
		p.Text = p.Text[strings.Index(p.Text, ": ")+2:]
	}
	return p
}

// blankComments overwrites comments to the end of the line with spaces: the JSON parser does not know #, nor a // that the
// file ends in. It returns the offset of a bracket that nests too deep, or -1.
func blankComments(data []byte) (tooDeep int) {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			for i++; i < len(data) && data[i] != '"' && data[i] != '\n'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case c == '#' || c == '/' && i+1 < len(data) && data[i+1] == '/':
			for ; i < len(data) && data[i] != '\n'; i++ {
				data[i] = ' '
			}
		case c == '/' && i+1 < len(data) && data[i+1] == '*':
			if end := bytes.Index(data[i+2:], []byte("*/")); end >= 0 {
				i += 2 + end + 1
			}
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return i
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return -1
}

// walk checks the value at path against a Go type: names of fields, duplicates, kinds. It notes where each value stands.
func (d *decoder) walk(v *hujson.Value, t reflect.Type, path string) error {
	d.at[path] = v.StartOffset
	kind := v.Value.Kind()
	mismatch := func(want string) error {
		return d.problem(v.StartOffset, "", "%s must be %s, not %s", named(path), want, kindName(kind))
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[Strings]():
		if kind != '"' && kind != '[' {
			return mismatch("a string or a list of strings")
		}
		if list, ok := v.Value.(*hujson.Array); ok {
			for i := range list.Elements {
				if err := d.walk(&list.Elements[i], t.Elem(), path+"["+strconv.Itoa(i)+"]"); err != nil {
					return err
				}
			}
		}
	case t.Kind() == reflect.String:
		if kind != '"' {
			return mismatch("a string")
		}
	case t.Kind() == reflect.Bool:
		if kind != 't' && kind != 'f' {
			return mismatch("true or false")
		}
	case t.Kind() == reflect.Int:
		if kind != '0' {
			return mismatch("a number")
		}
		if text := string(v.Value.(hujson.Literal)); strings.ContainsAny(text, ".eE") {
			return d.problem(v.StartOffset, "", "%s must be a whole number, not %s", named(path), text)
		}
	case t.Kind() == reflect.Slice:
		list, ok := v.Value.(*hujson.Array)
		if !ok {
			return mismatch("a list")
		}
		for i := range list.Elements {
			if err := d.walk(&list.Elements[i], t.Elem(), path+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Struct:
		return d.walkObject(v, t, path)
	default:
		panic("config: field of unknown kind " + t.String())
	}
	return nil
}

func (d *decoder) walkObject(v *hujson.Value, t reflect.Type, path string) error {
	object, ok := v.Value.(*hujson.Object)
	if !ok {
		return d.problem(v.StartOffset, "", "%s must be an object, not %s", named(path), kindName(v.Value.Kind()))
	}
	seen := make(map[string]bool)
	for i := range object.Members {
		m := &object.Members[i]
		name := m.Name.Value.(hujson.Literal).String()
		field, known := fieldNamed(t, name)
		switch {
		case !known:
			return d.problem(m.Name.StartOffset, term.Nearest(name, fieldNames(t)), "unknown field %s", strconv.Quote(name))
		case seen[name]:
			return d.problem(m.Name.StartOffset, "", "field %s is given twice", strconv.Quote(name))
		}
		seen[name] = true
		inner := name
		if path != "" {
			inner = path + "." + name
		}
		if err := d.walk(&m.Value, field.Type, inner); err != nil {
			return err
		}
	}
	return nil
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("json"))
	}
	return names
}

// fieldNamed finds a field by its exact name: encoding/json alone would take any case.
func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("json") == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func named(path string) string {
	if path == "" {
		return "the configuration"
	}
	return path
}

func kindName(k hujson.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "true or false"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '[':
		return "a list"
	}
	return "an object"
}

// UnmarshalJSON takes a string or a list of strings.
func (s *Strings) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var one string
		if err := json.Unmarshal(data, &one); err != nil {
			return err
		}
		*s = Strings{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(s))
}

// check holds the parsed file to the rules that its types cannot say.
func (d *decoder) check(f *File) error {
	at := func(path string) int {
		for { // a missing field is reported at the object that lacks it
			if offset, ok := d.at[path]; ok {
				return offset
			}
			path = path[:max(strings.LastIndexAny(path, ".["), 0)]
		}
	}
	oneOf := func(path, value string, list []string) error {
		for _, known := range list {
			if value == known {
				return nil
			}
		}
		return d.problem(at(path), term.Nearest(value, list), "%s is %s; it must be one of %s", path, strconv.Quote(value), strings.Join(list, ", "))
	}
	given := func(path string) bool { _, ok := d.at[path]; return ok }
	filled := func(path string, list Strings) error {
		for i, s := range list {
			if s == "" || strings.ContainsRune(s, 0) {
				if p := path + "[" + strconv.Itoa(i) + "]"; given(p) {
					path = p
				}
				return d.problem(at(path), "", "%s is %s", path, strconv.Quote(s))
			}
		}
		return nil
	}
	var first error // the checks below run in the order of the file's fields; the first error counts
	must := func(err error) {
		if first == nil {
			first = err
		}
	}

	if f.Storage != nil {
		must(d.checkStorage(f.Storage, at, oneOf))
	}
	for _, limit := range [][2]string{{"limit_upload", f.LimitUpload}, {"limit_download", f.LimitDownload}} {
		if _, err := Rate(limit[1]); given(limit[0]) && err != nil {
			must(d.problem(at(limit[0]), "", "%s: %v", limit[0], err))
		}
	}
	if given("compression") {
		must(oneOf("compression", f.Compression, Compressions()))
	}
	must(filled("exclude", f.Exclude))
	must(filled("exclude_file", f.ExcludeFile))
	must(filled("tags", f.Tags))
	titles := make(map[string]bool)
	for i := range f.Jobs {
		j, path := &f.Jobs[i], "jobs["+strconv.Itoa(i)+"]"
		if len(j.Source) == 0 {
			must(d.problem(at(path+".source"), "", "%s needs a source", path))
		}
		must(filled(path+".source", j.Source))
		for k, s := range j.Source {
			if s != "" && !filepath.IsAbs(s) && !strings.HasPrefix(s, "/") {
				p := path + ".source[" + strconv.Itoa(k) + "]"
				must(d.problem(at(p), "", "source %s is not an absolute path: a job has no working folder", strconv.Quote(s)))
			}
		}
		if given(path+".name") && j.Name == "" {
			must(d.problem(at(path+".name"), "", "%s.name is empty", path))
		}
		if given(path + ".type") {
			must(oneOf(path+".type", j.Type, BackupTypes()))
		}
		if given(path + ".compression") {
			must(oneOf(path+".compression", j.Compression, Compressions()))
		}
		if given(path + ".schedule") {
			if err := CheckSchedule(j.Schedule); err != nil {
				must(d.problem(at(path+".schedule"), "", "%v", err))
			}
		}
		if given(path + ".retention") {
			if _, err := retain.ParsePeriod(j.Retention); err != nil {
				must(d.problem(at(path+".retention"), "", "%s.retention: %v", path, err))
			}
		}
		must(filled(path+".exclude", j.Exclude))
		must(filled(path+".exclude_file", j.ExcludeFile))
		must(filled(path+".tags", j.Tags))
		if titles[j.Title()] {
			must(d.problem(at(path), "", "two jobs are called %s; give each a name", strconv.Quote(j.Title())))
		}
		titles[j.Title()] = true
	}
	return first
}

func (d *decoder) checkStorage(s *Storage, at func(string) int, oneOf func(string, string, []string) error) error {
	if _, ok := d.at["storage.type"]; !ok {
		return d.problem(at("storage"), "", "storage needs a type: %s", strings.Join(StorageTypes(), ", "))
	}
	if err := oneOf("storage.type", s.Type, StorageTypes()); err != nil {
		return err
	}
	belongs := map[string][]string{
		"local": {"type", "path"},
		"sftp":  {"type", "path", "host", "port", "user", "identity_file", "known_hosts", "command", "connections"},
		"s3":    {"type", "bucket", "endpoint", "prefix", "region", "plain_http", "addressing", "profile", "ca_file", "pack_class", "read_back", "connections"},
	}[s.Type]
	for _, name := range fieldNames(reflect.TypeFor[Storage]()) {
		if offset, ok := d.at["storage."+name]; ok && !slices.Contains(belongs, name) {
			return d.problem(offset, "", "storage.%s does not belong to storage type %s", name, s.Type)
		}
	}
	needed := map[string][2]string{"local": {"path", s.Path}, "sftp": {"host", s.Host}, "s3": {"bucket", s.Bucket}}[s.Type]
	if needed[1] == "" {
		return d.problem(at("storage."+needed[0]), "", "storage type %s needs a %s", s.Type, needed[0])
	}
	if _, ok := d.at["storage.port"]; ok && (s.Port < 1 || s.Port > 65535) {
		return d.problem(at("storage.port"), "", "storage.port must be 1 to 65535")
	}
	if _, ok := d.at["storage.connections"]; ok && (s.Connections < 1 || s.Connections > 64) {
		return d.problem(at("storage.connections"), "", "storage.connections must be 1 to 64")
	}
	if s.Type == "sftp" && s.Connections > 16 {
		return d.problem(at("storage.connections"), "", "storage.connections must be 1 to 16 for sftp")
	}
	if s.Addressing != "" {
		if err := oneOf("storage.addressing", s.Addressing, Addressings()); err != nil {
			return err
		}
	}
	if s.Type == "local" && !filepath.IsAbs(s.Path) && !strings.HasPrefix(s.Path, "/") {
		return d.problem(at("storage.path"), "", "storage.path %s is not an absolute path", strconv.Quote(s.Path))
	}
	return nil
}
