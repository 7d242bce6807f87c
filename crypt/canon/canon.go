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
func newCodec(e cbor.EncOptions, d cbor.DecOptions) codec {
	enc, err := e.EncMode()
	if err != nil {
		panic("canon: " + err.Error())
	}
	dec, err := d.DecMode()
	if err != nil {
		panic("canon: " + err.Error())
	}
	return codec{enc, dec}
}

// texts stores Go strings as text, byteStrings as byte strings.
var texts, byteStrings = codecs()

func codecs() (text, bytes codec) {
	e := cbor.CoreDetEncOptions()
	e.NilContainers = cbor.NilContainerAsEmpty
	d := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   MaxDepth,
		MaxArrayElements:  1 << 21,
		MaxMapPairs:       1 << 16,
	}
	text = newCodec(e, d)
	e.String = cbor.StringToByteString
	d.ByteStringToString = cbor.ByteStringToStringAllowed
	d.MaxArrayElements, d.MaxMapPairs = maxBytesList, maxBytesPairs
	return text, newCodec(e, d)
}

// Marshal encodes v, a struct with `cbor:"N,keyasint,omitempty"` tags. Types are fixed at compile time, so an
// error is a bug in the caller, and panics. Strings must be valid UTF-8, or Unmarshal will refuse them.
func Marshal(v any) []byte { return texts.marshal(v) }

// Unmarshal decodes b into v, which points to a zero value. It refuses unknown and double keys, indefinite lengths, tags,
// trailing bytes, and with ErrForm any encoding that Marshal would not have produced: Marshal(Unmarshal(b)) == b for
// every accepted b. The caller caps len(b). Lengths are checked against it before anything is allocated, so at most
// len(b) elements are allocated in all, each of its Go type's size.
func Unmarshal(b []byte, v any) error { return texts.unmarshal(b, v) }

// Caps of what UnmarshalBytes decodes, elements: its lists have large ones, so that more would cost a hundred times their bytes.
const (
	maxBytesList  = 1 << 16
	maxBytesPairs = 32
)

// MarshalBytes is Marshal for structures whose strings are any bytes, not UTF-8 alone: they are stored as byte strings.
func MarshalBytes(v any) []byte { return byteStrings.marshal(v) }

// UnmarshalBytes is the inverse of MarshalBytes, as Unmarshal is of Marshal. Lists of more than 65,536 elements are refused.
func UnmarshalBytes(b []byte, v any) error { return byteStrings.unmarshal(b, v) }

func (c codec) marshal(v any) []byte {
	b, err := c.enc.Marshal(v)
	if err != nil {
		panic("canon: " + err.Error())
	}
	return b
}

func (c codec) unmarshal(b []byte, v any) error {
	if err := c.dec.Unmarshal(b, v); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("decoding: %w", err)
	}
	again, err := c.enc.Marshal(v)
	if err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("decoding: %w", ErrForm)
	}
	return nil
}
