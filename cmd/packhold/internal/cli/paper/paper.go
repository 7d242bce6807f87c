// Package paper writes a few kilobytes for printing, as text that can be typed back and as QR codes, and reads the text.
package paper

import (
	"bufio"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"rsc.io/qr"
)

// The text form, one line each:
//
//	# title
//	NNN  XXXX XXXX XXXX XXXX XXXX XXXX XXXX XXXX  CCCC
//	end  NNN XXXX XXXX XXXX XXXX
//
// A data line holds 20 bytes in base32 (RFC 4648, without padding; the last line fewer), its number from 1, and as check
// the first 20 bits of SHA-256("packhold/1/paper" | number | bytes). The end line holds the number of data lines and the
// first 80 bits of SHA-256 over all bytes. A mistyped letter passes the line's check once in a million times and then
// still fails the last.
const (
	lineBytes = 20
	// MaxData is the most that Write takes, in bytes: 999 lines are some twenty pages, more than anyone types.
	MaxData = 999 * lineBytes
	// codeBytes is what one QR code carries: with its 25 characters of frame it fits version 20 at level M (970
	// alphanumeric characters), whose 97 modules are printed at a size that phones read.
	codeBytes = 560
)

// encoding is base32 with the alphabet of RFC 4648, section 6: no 0, 1 or 8 to confuse with letters.
var encoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Write writes data under a title of one line, as text and then as QR codes in half blocks: two rows of modules a line of
// text, dark modules in ink. Each code holds PACKHOLD1:PART/PARTS:CHECK:DATA in base32, CHECK being the end line's.
func Write(w io.Writer, title string, data []byte) error {
	if len(data) == 0 || len(data) > MaxData {
		return fmt.Errorf("writing paper export: %d bytes, it takes 1 to %d", len(data), MaxData)
	}
	if strings.ContainsAny(title, "\r\n") {
		return errors.New("writing paper export: the title has more than one line")
	}
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "#", title)
	lines := 0
	for rest := data; len(rest) > 0; {
		n := min(lineBytes, len(rest))
		lines++
		fmt.Fprintf(out, "%03d  %-39s  %s\n", lines, grouped(encoding.EncodeToString(rest[:n])), lineCheck(lines, rest[:n]))
		rest = rest[n:]
	}
	fmt.Fprintf(out, "end  %03d %s\n", lines, grouped(dataCheck(data)))
	parts := (len(data) + codeBytes - 1) / codeBytes
	for part := range parts {
		piece := data[part*codeBytes : min((part+1)*codeBytes, len(data))]
		text := fmt.Sprintf("PACKHOLD1:%d/%d:%s:%s", part+1, parts, dataCheck(data)[:8], encoding.EncodeToString(piece))
		code, err := qr.Encode(text, qr.M)
		if err != nil {
			return fmt.Errorf("writing paper export: %w", err)
		}
		fmt.Fprintf(out, "\ncode %d of %d\n%s", part+1, parts, halfBlocks(code))
	}
	return out.Flush()
}

// quiet is the blank margin around a code in modules, as its standard demands.
const quiet = 4

// halfBlocks draws two rows of modules as one line of text.
func halfBlocks(c *qr.Code) string {
	var b strings.Builder
	for y := -quiet; y < c.Size+quiet; y += 2 {
		for x := -quiet; x < c.Size+quiet; x++ {
			upper, lower := c.Black(x, y), c.Black(x, y+1)
			switch {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func lineCheck(number int, data []byte) string {
	sum := sha256.Sum256(append([]byte("packhold/1/paper"+strconv.Itoa(number)+"|"), data...))
	return encoding.EncodeToString(sum[:3])[:4]
}

func dataCheck(data []byte) string {
	sum := sha256.Sum256(data)
	return encoding.EncodeToString(sum[:10])
}

// grouped puts a space after every four characters.
func grouped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i += 4 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s[i:min(i+4, len(s))])
	}
	return b.String()
}

// Read is the inverse of Write's text. It skips what stands before line 1, empty lines and everything after the end line,
// takes small letters, and 0, 1 and 8 for the O, I and B that they resemble. An error names the line to look at again.
func Read(r io.Reader) (data []byte, err error) {
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf("reading paper export: "+format, args...)
	}
	resembling := strings.NewReplacer("0", "O", "1", "I", "8", "B")
	lines := 0
	in := bufio.NewScanner(io.LimitReader(r, 8*MaxData)) // a line of 20 bytes takes 52, typed generously 160
	for in.Scan() {
		fields := strings.Fields(in.Text())
		if len(fields) == 0 || lines == 0 && fields[0] != "001" {
			continue
		}
		letters := resembling.Replace(strings.ToUpper(strings.Join(fields[1:], "")))
		if strings.EqualFold(fields[0], "end") {
			if len(fields) < 2 || fields[1] != fmt.Sprintf("%03d", lines) {
				return fail("it ends after line %d, which the end line does not confirm", lines)
			}
			if resembling.Replace(strings.ToUpper(strings.Join(fields[2:], ""))) != dataCheck(data) {
				return fail("every line is right but not all together: lines of two exports, or a mistyped end line")
			}
			return data, nil
		}
		if fields[0] != fmt.Sprintf("%03d", lines+1) {
			return fail("line %03d is missing, found %q", lines+1, fields[0])
		}
		if len(data) != lines*lineBytes || lines == MaxData/lineBytes {
			return fail("nothing may follow line %03d but the end line", lines)
		}
		lines++
		split := max(len(letters)-4, 0)
		piece, err := encoding.DecodeString(letters[:split])
		if err != nil || len(piece) == 0 || len(piece) > lineBytes || lineCheck(lines, piece) != letters[split:] {
			return fail("line %03d is mistyped", lines)
		}
		data = append(data, piece...)
	}
	if err := in.Err(); err != nil {
		return fail("%w", err)
	}
	return fail("there is no end line after line %03d", lines)
}
