// Package canon encodes structures as deterministic CBOR and refuses any other form of the same data.
//
// The form is RFC 8949 core deterministic encoding with integer map keys. Every stored structure but the tree page
// (which has a codec of its own, for speed) goes through here.
package canon

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// MaxDepth is how deep a decoded value may nest; the deepest of format 1 is 5.
const MaxDepth = 16

// ErrForm is matched when data decodes but is not the one deterministic encoding of its value.
var ErrForm = errors.New("not in deterministic form")

type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// newCodec cannot fail: the options are constants that the tests run.
func newCodec() codec {
	e := cbor.CoreDetEncOptions()
	e.NilContainers = cbor.NilContainerAsEmpty
	enc, err := e.EncMode()
	if err != nil {
		panic("canon: " + err.Error())
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   MaxDepth,
		MaxArrayElements:  1 << 21,
		MaxMapPairs:       1 << 16,
	}.DecMode()
	if err != nil {
		panic("canon: " + err.Error())
	}
	return codec{enc, dec}
}

var modes = newCodec()

// Marshal encodes v, a struct with `cbor:"N,keyasint,omitempty"` tags. Types are fixed at compile time, so an
// error is a bug in the caller, and panics. Strings must be valid UTF-8, or Unmarshal will refuse them.
func Marshal(v any) []byte {
	b, err := modes.enc.Marshal(v)
	if err != nil {
		panic("canon: " + err.Error())
	}
	return b
}

// Unmarshal decodes b into v, which points to a zero value. It refuses unknown and double keys, indefinite lengths, tags,
// trailing bytes, and with ErrForm any encoding that Marshal would not have produced: Marshal(Unmarshal(b)) == b for
// every accepted b. The caller caps len(b). Lengths are checked against it before anything is allocated, so at most
// len(b) elements are allocated in all, each of its Go type's size.
func Unmarshal(b []byte, v any) error {
	if err := modes.dec.Unmarshal(b, v); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("decoding: %w", err)
	}
	again, err := modes.enc.Marshal(v)
	if err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("decoding: %w", ErrForm)
	}
	return nil
}
