package control

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// Check checks everything that can be known of an object that is neither a pack nor of an audit log, from its bytes: its name,
// its seal, its signature and the signer's role, its form. Errors match ErrDamaged or ErrTampered.
func (o *Objects) Check(name string, b []byte) error {
	bad := func(err error) error {
		if err == nil || errors.Is(err, stored.ErrDamaged) || errors.Is(err, stored.ErrTampered) {
			return err
		}
		return stored.Damaged("checking", name, err)
	}
	prefix, rest, _ := strings.Cut(name, "/")
	switch prefix {
	case "config":
		return bad(o.checkConfig(name, b))
	case "replica":
		_, main, _ := strings.Cut(rest, "/")
		if main == "config" {
			return bad(o.checkConfig(name, b))
		}
		return bad(o.checkSlot(name, b))
	case "keys":
		return bad(o.checkSlot(name, b))
	case "bundles", "grants":
		// Only their holders can open them; the name commits to every byte.
		if !strings.HasSuffix(name, crypt.Sum(b).String()) {
			return bad(format.ErrName)
		}
		return nil
	case "index":
		_, err := o.Segment(name, b)
		return bad(err)
	case "snapshots":
		_, err := o.Snapshot(name, b)
		return bad(err)
	case "copied":
		_, _, err := o.Copied(name, b)
		return bad(err)
	case "roots":
		_, err := o.Succession(name, b)
		return bad(err)
	case "group":
		_, _, whole, err := o.Group(name, b)
		if err == nil && !whole {
			err = format.ErrName
		}
		return bad(err)
	}
	return bad(o.checkControl(prefix, name, rest, b))
}

func (o *Objects) checkConfig(name string, b []byte) error {
	c, err := format.ParseConfig(b)
	if err == nil && (c.ID != o.Config.ID || !bytes.Equal(c.Root, o.Config.Root)) {
		return stored.Tampered("checking", name, ErrForeign)
	}
	return err
}

func (o *Objects) checkSlot(name string, b []byte) error {
	s, err := crypt.ParseSlot(b)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(name, "/"+s.ID.String()) {
		return stored.Tampered("checking", name, errors.New("it is another slot"))
	}
	if err := o.Ring.CheckSlot(s); err != nil {
		return stored.Tampered("checking", name, err)
	}
	_, err = s.Label(o.Config.ID, o.Writes)
	return err
}

// checkControl checks a sealed and signed object and the form of its body.
func (o *Objects) checkControl(prefix, name, rest string, b []byte) (err error) {
	switch prefix {
	case "settings":
		var g uint64
		if g, err = strconv.ParseUint(rest, 10, 64); err == nil {
			_, err = o.Generation(name, g, b)
		}
	case "hosts":
		_, err = o.Host(name, b)
	case "leases":
		_, err = o.Lease(name, b)
	case "condemned":
		_, suffix, _ := strings.Cut(rest, ".")
		_, err = o.Set(name, suffix, b)
	case "forgotten":
		_, err = o.Forgotten(name, b)
	case "marks":
		_, _, err = o.Mark(name, b)
	case "verified":
		_, err = o.Verified(name, b)
	default:
		err = errors.New("no object of format 1 is called so")
	}
	return err
}
