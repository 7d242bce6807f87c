package repo

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"packhold/crypt"
)

// ControlPrefixes are where the objects stand that CheckObject knows: all but packs and audit logs.
var ControlPrefixes = [...]string{"config", "replica/", "settings/", "roots/", "keys/", "bundles/", "hosts/", "grants/", "group/", "index/",
	"snapshots/", "leases/", "condemned/", "forgotten/", "copied/", "marks/", "verified/"}

// CheckObject checks everything that can be known of an object that is neither a pack nor of an audit log, from its bytes: its name,
// its seal, its signature and the signer's role, its form. Errors match ErrDamaged or ErrTampered.
func (r *Repo) CheckObject(name string, b []byte) error {
	bad := func(err error) error {
		if err == nil || errors.Is(err, ErrDamaged) || errors.Is(err, ErrTampered) {
			return err
		}
		return damaged("checking", name, err)
	}
	prefix, rest, _ := strings.Cut(name, "/")
	switch prefix {
	case "config":
		return bad(r.checkConfig(name, b))
	case "replica":
		_, main, _ := strings.Cut(rest, "/")
		if main == "config" {
			return bad(r.checkConfig(name, b))
		}
		return bad(r.checkSlot(name, b))
	case "keys":
		return bad(r.checkSlot(name, b))
	case "bundles", "grants":
		// Only their holders can open them; the name commits to every byte.
		if !strings.HasSuffix(name, crypt.Sum(b).String()) {
			return bad(errors.New("the bytes do not match the name"))
		}
		return nil
	case "index":
		_, err := r.parseSegment(name, b)
		return bad(err)
	case "snapshots":
		_, err := r.SnapshotObject(name, b)
		return bad(err)
	case "copied":
		_, err := r.parseCopied(name, b)
		return bad(err)
	case "roots":
		_, err := parseSuccession(r.config.ID, name, b)
		return bad(err)
	case "group":
		_, _, whole, err := r.parseGroup(name, b)
		if err == nil && !whole {
			err = errors.New("the bytes do not match the name")
		}
		return bad(err)
	}
	return bad(r.checkControl(prefix, name, rest, b))
}

func (r *Repo) checkConfig(name string, b []byte) error {
	c, err := ParseConfig(b)
	if err == nil && (c.ID != r.config.ID || !bytes.Equal(c.Root, r.keys.Root)) {
		return tampered("checking", name, ErrForeign)
	}
	return err
}

func (r *Repo) checkSlot(name string, b []byte) error {
	s, err := crypt.ParseSlot(b)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(name, "/"+s.ID.String()) {
		return tampered("checking", name, errors.New("it is another slot"))
	}
	if err := s.CheckSigned(r.keys.Root, r.config.ID); err != nil {
		return tampered("checking", name, err)
	}
	_, err = s.Label(r.config.ID, r.keys.Writes)
	return err
}

// checkControl checks a sealed and signed object and the form of its body.
func (r *Repo) checkControl(prefix, name, rest string, b []byte) (err error) {
	switch prefix {
	case "settings":
		var g uint64
		if g, err = strconv.ParseUint(rest, 10, 64); err == nil {
			_, err = r.parseSettings(name, g, b)
		}
	case "hosts":
		_, err = r.parseHost(name, b)
	case "leases":
		_, err = r.parseLease(name, b)
	case "condemned":
		_, suffix, _ := strings.Cut(rest, ".")
		_, _, err = r.parseSet(name, suffix, b)
	case "forgotten":
		_, err = r.parseForgotten(name, b)
	case "marks":
		_, err = r.parseMark(name, b)
	case "verified":
		_, err = r.parseVerified(name, b)
	default:
		err = errors.New("no object of format 1 is called so")
	}
	return err
}

// parseVerified opens what a reader says it verified.
func (r *Repo) parseVerified(name string, object []byte) (*Verified, error) {
	s, err := r.openSigned(crypt.TypeVerified, name, object)
	if err != nil {
		return nil, err
	}
	v, err := parseBody[Verified](s.Body)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	if v.Host != s.Signer {
		return nil, tampered("reading", name, errors.New("its signer is another host"))
	}
	return v, nil
}
