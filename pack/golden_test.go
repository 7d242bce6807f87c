package pack

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"packhold/crypt"
)

var update = flag.Bool("update", false, "make the vectors in testdata anew: a change of format 1")

// vector says what a reader needs for the pack file beside it, in hexadecimal. Nonces and the table's salt are random,
// so they are those in the file: a writer that is given them must make this very file.
type vector struct {
	Name        string
	RepoID      string
	SessionKey  string
	WriteSecret string
	Header      string
	Session     string
	SignerKey   string // public key of the host, which here signs the digest itself
	Parity      int
	Blobs       []struct {
		Plain       string
		Compression uint8
		Offset      uint32
		Length      uint32
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".pack"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var vectors = []struct {
	name    string
	kind    crypt.Type
	variant uint8
	parity  int
	blobs   [][]byte
}{
	{"data-blake3", crypt.TypeDataPack, ShardBLAKE3, 1, [][]byte{bytes.Repeat([]byte("packhold "), 60), random(1, 300), {0}}},
	{"tree-sha256", crypt.TypeTreePack, ShardSHA256, 2, [][]byte{bytes.Repeat([]byte("a tree page "), 40), random(2, 4000)}},
	{"data-no-parity", crypt.TypeDataPack, ShardBLAKE3, 0, [][]byte{[]byte("one small blob")}},
}

func TestGolden(t *testing.T) {
	for _, c := range vectors {
		t.Run(c.name, func(t *testing.T) {
			base := filepath.Join("testdata", c.name)
			k := newKeys(t, c.kind, c.variant)
			if *update {
				f := build(t, k, k.options(1<<20, c.parity), c.blobs...)
				v := vector{Name: f.Name.String(), RepoID: hex.EncodeToString(k.repo[:]), SessionKey: hex.EncodeToString(k.session[:]),
					WriteSecret: hex.EncodeToString(k.write[:]), Header: hex.EncodeToString(k.header.Append(nil)),
					Session: hex.EncodeToString(k.options(0, 0).Session), SignerKey: hex.EncodeToString(k.host[32:]), Parity: c.parity}
				for i, e := range f.Entries {
					v.Blobs = append(v.Blobs, struct {
						Plain       string
						Compression uint8
						Offset      uint32
						Length      uint32
					}{hex.EncodeToString(c.blobs[i]), uint8(e.Compression), e.Offset, e.Length})
				}
				j, err := json.MarshalIndent(v, "", "\t")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(base+".json", append(j, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(base+".pack", f.Data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			j, err := os.ReadFile(base + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var v vector
			if err := json.Unmarshal(j, &v); err != nil {
				t.Fatal(err)
			}
			testGolden(t, k, v, readVector(t, c.name))
		})
	}
}

func testGolden(t *testing.T, k keys, v vector, file []byte) {
	// All from the vector, nothing from the keys of today's tests but the type that holds them.
	var err error
	k.repo, k.session, k.write = crypt.RepoID(unhex(t, v.RepoID)), crypt.SessionKey(unhex(t, v.SessionKey)), crypt.WriteSecret(unhex(t, v.WriteSecret))
	if k.header, err = crypt.ParseHeader(unhex(t, v.Header)); err != nil {
		t.Fatal(err)
	}
	if k.pack, err = k.session.PackKey(k.repo, k.header.Salt); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.host[32:], unhex(t, v.SignerKey)) {
		t.Fatal("signer differs")
	}
	name, err := crypt.ParseID(v.Name)
	if err != nil {
		t.Fatal(err)
	}

	// Read.
	if r, err := Verify(file, name, nil); err != nil || !r.OK() {
		t.Fatalf("%+v, %v", r, err)
	}
	tr, tab := k.openTable(t, file)
	if tr.Header != k.header || tr.Parity != v.Parity || !bytes.Equal(tab.Session, unhex(t, v.Session)) || len(tab.Entries) != len(v.Blobs) {
		t.Fatalf("%+v", tr)
	}
	c := mustCodec(t, None)
	for i, b := range v.Blobs {
		e := tab.Entries[i]
		if e.Offset != b.Offset || e.Length != b.Length || uint8(e.Compression) != b.Compression {
			t.Fatalf("entry %d: %+v", i, e)
		}
		plain, err := c.Open(nil, k.pack, e.Info(tr.Header.Type), file[e.Offset:e.Offset+e.Length])
		if err != nil || !bytes.Equal(plain, unhex(t, b.Plain)) {
			t.Fatalf("blob %d: %v", i, err)
		}
	}

	// Write: sealed bytes and salt as given, all else must follow.
	o := k.options(1<<20, v.Parity)
	o.Session = unhex(t, v.Session)
	b, err := NewBuilder(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tab.Entries {
		s, err := b.reserve(&Blob{ID: e.ID, Plain: make([]byte, e.Raw), Data: make([]byte, e.Length-crypt.Overhead), Compression: e.Compression})
		if err != nil {
			t.Fatal(err)
		}
		copy(s.room, file[e.Offset:])
		s.release(nil)
	}
	f, err := b.Finish(new(Coder), TableSealer{
		Sign: k.sealer().Sign,
		Seal: func(plain []byte) ([32]byte, []byte, error) {
			sealed := file[tr.TableOffset() : tr.TableOffset()+tr.TableSize]
			if was, err := k.write.OpenTable(k.repo, k.header, tr.TableSalt, sealed); err != nil || !bytes.Equal(was, plain) {
				t.Errorf("table differs, %v", err)
			}
			return tr.TableSalt, sealed, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Name != name || !bytes.Equal(f.Data, file) {
		t.Error("the file made again differs")
	}
}
