package cli

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"packhold/backends"
	"packhold/backends/local"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
)

// TestHostileSnapshots restores snapshots that no backup makes: what may not be is refused with its exit code, in four lines, and without a byte outside.
func TestHostileSnapshots(t *testing.T) {
	home := t.TempDir()
	place := filepath.Join(home, "repository")
	st, err := local.Open(place, local.Options{Create: true, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	c, err := repotest.Init(t.Context(), st, repotest.Options{PackSize: format.MinPackSize})
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), st, repo.Access{Credential: c}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := uint32(max(os.Getuid(), 0)), uint32(max(os.Getgid(), 0))
	file := func(name string) snapshot.Node {
		return snapshot.Node{Name: name, Type: snapshot.File, Mode: 0o644, UID: uid, GID: gid, Size: 4, Inline: []byte("evil")}
	}
	// commit stores a directory, with some of its bytes replaced, as a snapshot.
	commit := func(replace [2]string, nodes ...snapshot.Node) {
		t.Helper()
		s, err := r.Begin(t.Context(), repo.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.NewWorker()
		if err != nil {
			t.Fatal(err)
		}
		page := snapshot.Page{Nodes: nodes}
		b, err := page.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if replace[0] != "" {
			b = bytes.ReplaceAll(b, []byte(replace[0]), []byte(replace[1]))
		}
		root, _, err := w.StoreTree(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}},
			&snapshot.Body{Sources: []string{"/"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	lost := file("a")
	lost.Inline, lost.Extents = nil, []snapshot.Extent{{Kind: snapshot.Data, Length: 4, ID: crypt.Sum([]byte("nowhere"))}}
	nowhere := snapshot.Node{Name: "a", Type: snapshot.Dir, Mode: 0o755, UID: uid, GID: gid, Subtree: crypt.Sum([]byte("nowhere"))}
	device := snapshot.Node{Name: "a", Type: snapshot.CharDevice, Mode: 0o666, UID: uid, GID: gid, Rdev: 1 << 50}
	link := snapshot.Node{Name: "a", Type: snapshot.Symlink, Mode: 0o777, UID: uid, GID: gid, Target: ".."}
	var want []struct {
		code int
		word string
	}
	add := func(code int, word string, replace [2]string, nodes ...snapshot.Node) {
		t.Helper()
		commit(replace, nodes...)
		want = append(want, struct {
			code int
			word string
		}{code, word})
	}
	add(24, "restore.unsafe", [2]string{"!!", ".."}, file("!!"), file("good"))
	add(24, "restore.unsafe", [2]string{"a_precious", "a/precious"}, link, file("a_precious"))
	add(24, "restore.unsafe", [2]string{"aQprecious", "a\x00precious"}, file("aQprecious"))
	add(24, "restore.unsafe", [2]string{"zz", "aa"}, file("aa"), file("zz"))
	add(21, "damage.lost", [2]string{}, lost, file("good"))
	add(21, "damage.lost", [2]string{}, nowhere, file("good"))
	add(3, "restore.partial", [2]string{}, device, file("good"))
	add(3, "restore.partial", [2]string{}, file(strings.Repeat("\x1b[2J", 64)), file("good"))
	add(0, "", [2]string{}, file("\x1b]0;owned\x07"), link)
	write := func(path string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, w := range want {
		for _, flags := range [][]string{nil, {"--in-place", "--delete", "--verify"}, {"--json", "--overwrite", "if-changed"}, {"--dry-run"}} {
			out := t.TempDir()
			write(out + "/precious")
			args := append([]string{"restore", "--repo", place, "--backup-id", string(rune('1' + i)), "--destination", out + "/d"}, flags...)
			if len(flags) > 0 {
				write(out + "/d/extra")
				if err := os.Symlink("..", out+"/d/a"); err != nil {
					t.Fatal(err)
				}
			}
			got := packhold(t, home, []string{"PACKHOLD_PASSPHRASE", repotest.Passphrase}, args...)
			code := w.code
			if code == 3 && len(flags) > 0 && flags[0] == "--dry-run" && got.code == 0 {
				code = 0 // not all that the destination will refuse is known before
			}
			if got.code != code {
				t.Errorf("%q: exit %d, want %d\n%s%s", args, got.code, code, got.out, got.err)
			}
			if code != 0 {
				checkFour(t, got.err, w.word)
			}
			if strings.ContainsAny(got.out+got.err, "\x1b\x07\x00") {
				t.Errorf("%q: control characters are printed: %q", args, got.err)
			}
			names, err := os.ReadDir(out)
			if b, rerr := os.ReadFile(out + "/precious"); err != nil || len(names) > 2 || string(b) != "precious" {
				t.Errorf("%q: outside the destination: %v, %q, %v", args, names, b, rerr)
			}
			if b, err := os.ReadFile(out + "/d/good"); len(flags) == 0 && w.code != 24 && w.code != 0 && string(b) != "evil" {
				t.Errorf("%q: the good file: %q, %v", args, b, err)
			}
		}
	}
}

// TestSlotIterations: iterations outside the bounds, in whatever length they are written, are refused with exit 17 before a key is computed.
func TestSlotIterations(t *testing.T) {
	home := enrolled(t)
	slots, err := filepath.Glob(filepath.Join(repositoryOf(home), "keys", "*"))
	if err != nil || len(slots) != 1 {
		t.Fatal(slots, err)
	}
	for _, replica := range []string{"1", "2"} {
		if err := os.RemoveAll(filepath.Join(repositoryOf(home), "replica", replica, "keys")); err != nil {
			t.Fatal(err)
		}
	}
	good, err := os.ReadFile(slots[0])
	if err != nil {
		t.Fatal(err)
	}
	// The object: a header, then a list of the body as bytes, here of 256 to 65,535, signer and signature. Field 3 of the body are the iterations.
	const begin = 48
	if good[begin] != 0x83 || good[begin+1] != 0x59 {
		t.Fatalf("the slot begins with %x", good[begin:begin+2])
	}
	had := append([]byte{3}, canon.Marshal(uint64(crypt.MinIterations))...)
	if bytes.Count(good, had) != 1 {
		t.Fatal("the iterations are not found")
	}
	for _, c := range []struct {
		iterations uint64
		code       int
		word       string
	}{{0, 17, "key.policy"}, {1, 17, "key.policy"}, {crypt.MinIterations - 1, 17, "key.policy"}, {crypt.MinIterations, 0, ""},
		{crypt.MinIterations + 1, 12, "key.passphrase"}, {crypt.MaxIterations + 1, 17, "key.policy"}, {1 << 63, 17, "key.policy"}} {
		field := append([]byte{3}, canon.Marshal(c.iterations)...)
		b := bytes.Replace(good, had, field, 1)
		binary.BigEndian.PutUint16(b[begin+2:], binary.BigEndian.Uint16(good[begin+2:])+uint16(len(field)-len(had)))
		if err := os.Chmod(slots[0], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(slots[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got := packhold(t, home, unlock, "restore", "--dry-run", "--destination", filepath.Join(t.TempDir(), "out"))
		if c.code == 0 { // there is no snapshot
			if c.code = 4; !strings.Contains(got.err, "snapshot.none") {
				t.Errorf("%d iterations: %s", c.iterations, got.err)
			}
		} else {
			checkFour(t, got.err, c.word)
		}
		if took := time.Since(start); got.code != c.code || took > 10*time.Second {
			t.Errorf("%d iterations: exit %d after %v, want %d\n%s", c.iterations, got.code, took, c.code, got.err)
		}
	}
}

// TestDecompressionBomb: a blob that whoever holds its keys made to decompress to 256 MiB is lost, and costs no memory; everything else is restored.
func TestDecompressionBomb(t *testing.T) {
	home, source := enrolled(t), t.TempDir()
	text := make([]byte, 200_000) // one blob, which compresses by a half
	for i := range text {
		text[i] = "0123456789abcdef"[rand.IntN(16)]
	}
	for name, b := range map[string][]byte{"bomb": text, "good": []byte("good")} {
		if err := os.WriteFile(filepath.Join(source, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := packhold(t, home, nil, "backup", "--quiet", "--source", source, "--compression", "fastest"); got.code != 0 {
		t.Fatal(got.err)
	}
	st, err := local.Open(repositoryOf(home), local.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r, err := repo.Open(t.Context(), st, repo.Access{Passphrase: []byte(repotest.Passphrase)}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	arm := func(info backends.Info) {
		trailer, table, err := r.ReadTable(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		record, err := crypt.ParseSessionRecord(table.Session)
		if err != nil {
			t.Fatal(err)
		}
		session, err := r.Keys().Read[record.Epoch].Unwrap(r.Keys().Repo, record)
		if err != nil {
			t.Fatal(err)
		}
		key, err := session.PackKey(r.Keys().Repo, trailer.Header.Salt)
		if err != nil {
			t.Fatal(err)
		}
		var bomb bytes.Buffer
		w, err := zstd.NewWriter(&bomb, zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			t.Fatal(err)
		}
		for range 256 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		e := table.Entries[0]
		// A frame that decoders skip makes it as long as what it takes the place of.
		const skip = 8
		rest := int(e.Length) - crypt.Overhead - bomb.Len() - skip
		if len(table.Entries) != 1 || rest < 0 {
			t.Fatalf("%d blobs, %d bytes of room", len(table.Entries), rest)
		}
		b := binary.LittleEndian.AppendUint32(bomb.Bytes(), 0x184D2A50)
		b = append(binary.LittleEndian.AppendUint32(b, uint32(rest)), make([]byte, rest)...)
		sealed, err := key.Seal(nil, e.Info(trailer.Header.Type), b)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(repositoryOf(home), info.Name)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		copy(whole[e.Offset:], sealed)
		if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, whole, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for info, err := range st.List(t.Context(), "packs/") {
		if err != nil {
			t.Fatal(err)
		}
		arm(info)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	dst := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{{"restore", "--backup-id", "1", "--destination", dst}, {"verify", "--read-data"}} {
		got := packhold(t, home, unlock, args...)
		checkFour(t, got.err, "damage.lost")
		if got.code != 21 || !strings.Contains(got.err, "/bomb") || strings.Contains(got.err, "/good") {
			t.Errorf("%q: exit %d\n%s", args, got.code, got.err)
		}
	}
	if left := contents(t, dst); len(left) != 1 || left["/good"] != "good" {
		t.Errorf("%d files were restored, good holds %q", len(left), left["/good"])
	}
	runtime.ReadMemStats(&after)
	n := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d MiB asked for", n>>20)
	if n > 64<<20 {
		t.Errorf("%d MiB of memory were asked for", n>>20)
	}
}
