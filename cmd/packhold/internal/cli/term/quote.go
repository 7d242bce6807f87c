// Package term is what a value looks like to a person: names quoted where they could deceive, sizes and times with units,
// tables, and a screen whose last lines can be redrawn.
package term

import (
	"encoding/base64"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Name returns a file name, host name or other foreign text fit for a terminal: as it is if harmless, otherwise in
// double quotes with Go's escapes, so that strconv.Unquote(Name(s)) == s. Harmful are control characters, invalid UTF-8,
// characters that reorder or hide text (bidirectional marks, zero-width characters), and white space that a reader cannot
// see: other than the plain space, or a space at either end. Empty and quote-led names are quoted to stay unambiguous.
func Name(s string) string {
	if s == "" || s[0] == '"' || s[0] == ' ' || s[len(s)-1] == ' ' || !harmless(s) {
		return quote(s)
	}
	return s
}

// Names returns names one after the other, separated by a comma and a space, each as Name.
func Names(list []string) string {
	shown := make([]string, len(list))
	for i, s := range list {
		shown[i] = Name(s)
	}
	return strings.Join(shown, ", ")
}

// Clean escapes in a text, such as an error's, what Name would quote a name for, and leaves the rest alone.
func Clean(s string) string {
	if harmless(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if bad(r, n) {
			q := quote(s[:n])
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// RawName returns what JSON output carries for a name: valid UTF-8 with U+FFFD for what is not, and the name's bytes in
// base64 if the two differ, else "". A name that holds a genuine U+FFFD is valid and has no raw form.
func RawName(s string) (text, raw string) {
	if utf8.ValidString(s) {
		return s, ""
	}
	return strings.ToValidUTF8(s, "\uFFFD"), base64.StdEncoding.EncodeToString([]byte(s))
}

// Width returns how many columns s takes, counting a rune as one. East Asian wide characters take two, which only makes
// a padded column ragged.
func Width(s string) int { return utf8.RuneCountInString(s) }

// Fit cuts s to width columns, replacing its middle by "..." where it is longer: the end of a path says most.
func Fit(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	if width <= 5 {
		return string(r[:max(width, 0)])
	}
	head := (width - 3) / 3
	return string(r[:head]) + "..." + string(r[len(r)-(width-3-head):])
}

func harmless(s string) bool {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if bad(r, n) {
			return false
		}
		i += n
	}
	return true
}

// bad reports whether a rune of n bytes may not reach a terminal. unicode.IsPrint leaves out controls, format characters
// (Cf, which holds the bidirectional and zero-width ones), private use and every space but U+0020.
func bad(r rune, n int) bool {
	return r == utf8.RuneError && n <= 1 || !unicode.IsPrint(r)
}

func quote(s string) string { return strconv.Quote(s) }
