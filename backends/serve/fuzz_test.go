//go:build linux || darwin || freebsd

package serve

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// FuzzStream feeds a server whatever comes.
func FuzzStream(f *testing.F) {
	f.Add(packet(1, verbOpen, "tmp/x", uint32(flagWrite|flagCreate), attributes{}))
	f.Add(append(packet(1, verbOpen, "tmp/x", uint32(flagWrite|flagCreate), attributes{}), packet(2, verbHardlink, "tmp/x", "packs/aa/x")...))
	f.Add(packet(1, verbSetstat, "config", attributes{flags: attrSize | attrOwner | attrMode | attrTimes}))
	f.Add(packet(1, verbFsync, "1"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		fuzz(t, append([]byte{0, 0, 0, 5, typeInit, 0, 0, 0, 3}, stream...))
	})
}

// FuzzRequests feeds a server well-formed requests about interesting names, in any order.
func FuzzRequests(f *testing.F) {
	f.Add([]byte{0, 0, 9, 4, 0, 0, 20, 4, 1, 0, 0, 0})
	f.Add([]byte("any text will do, as it is all numbers in the end"))
	var names []string
	for _, kind := range []string{finished, temporary, missing, missingTemp, directory, top, tempTop, throughLink, link, tempLink, invalid} {
		names = append(names, targets[kind]...)
	}
	all := []verb{verbOpen, verbClose, verbRead, verbWrite, verbLstat, verbFstat, verbSetstat, verbFsetstat, verbOpendir, verbReaddir, verbRemove, verbMkdir, verbRmdir, verbRealpath,
		verbStat, verbRename, verbReadlink, verbSymlink, verbPosixRename, verbHardlink, verbFsync, verbStatVFS, "x@y"}
	f.Fuzz(func(t *testing.T, choices []byte) {
		stream := []byte{0, 0, 0, 5, typeInit, 0, 0, 0, 3}
		for id := uint32(0); len(choices) >= 4 && id < 200; id++ {
			v, a, b, c := all[int(choices[0])%len(all)], names[int(choices[1])%len(names)], names[int(choices[2])%len(names)], choices[3]
			choices = choices[4:]
			attrs := attributes{flags: uint32(c) % 16, size: uint64(c)}
			handle := strconv.Itoa(int(c) % 16)
			var fields []any
			switch v {
			case verbOpen:
				fields = []any{a, uint32(c) % 64, attrs}
			case verbRead:
				fields = []any{handle, uint64(choice(b)), uint32(1 << (c % 32))}
			case verbWrite:
				fields = []any{handle, uint64(choice(b)), a}
			case verbClose, verbFstat, verbReaddir, verbFsync:
				fields = []any{handle}
			case verbFsetstat:
				fields = []any{handle, attrs}
			case verbSetstat, verbMkdir:
				fields = []any{a, attrs}
			default:
				fields = []any{a, b}
			}
			stream = append(stream, packet(id, v, fields...)...)
		}
		fuzz(t, stream)
	})
}

// choice makes an offset of a name.
func choice(name string) int { return len(name) % 1000 }

// fuzz runs a server on the stream and checks that no finished file was harmed, that nothing was made which has no valid name, and that it answered in SFTP.
func fuzz(t *testing.T, stream []byte) {
	dir := folder(t)
	before := tree(t, dir)
	var out bytes.Buffer
	_ = run(t.Context(), dir, &stream2{in: bytes.NewReader(stream), out: &out}, Options{AppendOnly: true, Quota: 1 << 20}, quick()) // rubbish is an error
	after := tree(t, dir)
	finishedUnchanged(t, before, after)
	for name := range after {
		if _, old := before[name]; old {
			continue
		}
		if _, err := parse(name); err != nil {
			t.Errorf("%q was made", name)
		}
	}
	for _, name := range []string{"../secret", "../outside/f", "FOREIGN"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for b := out.Bytes(); len(b) > 0; {
		if len(b) < 5 || int64(binary.BigEndian.Uint32(b)) > int64(len(b)-4) || binary.BigEndian.Uint32(b) > maxPacket {
			t.Fatalf("an answer that is none: % x", b[:min(len(b), 20)])
		}
		b = b[4+binary.BigEndian.Uint32(b):]
	}
}
