package repo

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// CheckObject checks everything that can be known of an object that is neither a pack nor of an audit log, from its bytes: its name,
// its seal, its signature and the signer's role, its form. Errors match ErrDamaged or ErrTampered.
func (r *Repo) CheckObject(name string, b []byte) error {
	bad := func(err error) error {
		if err == nil || errors.Is(err, ErrDamaged) || errors.Is(err, ErrTampered) {
			return err
		}
		return stored.Damaged("checking", name, err)
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
			return bad(format.ErrName)
		}
		return nil
	case "index":
		_, err := r.parseSegment(name, b)
		return bad(err)
	case "snapshots":
		_, err := r.SnapshotObject(name, b)
		return bad(err)
	case "copied":
		_, _, err := r.parseCopied(name, b)
		return bad(err)
	case "roots":
		_, err := r.parseSuccession(name, b)
		return bad(err)
	case "group":
		_, _, whole, err := r.parseGroup(name, b)
		if err == nil && !whole {
			err = format.ErrName
		}
		return bad(err)
	}
	return bad(r.checkControl(prefix, name, rest, b))
}

func (r *Repo) checkConfig(name string, b []byte) error {
	c, err := format.ParseConfig(b)
	if err == nil && (c.ID != r.config.ID || !bytes.Equal(c.Root, r.config.Root)) {
		return stored.Tampered("checking", name, ErrForeign)
	}
	return err
}

func (r *Repo) checkSlot(name string, b []byte) error {
	s, err := crypt.ParseSlot(b)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(name, "/"+s.ID.String()) {
		return stored.Tampered("checking", name, errors.New("it is another slot"))
	}
	if err := r.ring.CheckSlot(s); err != nil {
		return stored.Tampered("checking", name, err)
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
func (r *Repo) parseVerified(name string, object []byte) (*format.Verified, error) {
	v, signer, err := openBody[format.Verified](r, crypt.TypeVerified, name, object)
	if err == nil && v.Host != signer {
		return nil, stored.Tampered("reading", name, errors.New("its signer is another host"))
	}
	return v, err
}

// parseCopied opens copied/<sha256>, checks the record as the one of its home, and returns the object of its home too. Errors match ErrDamaged or
// ErrTampered.
func (r *Repo) parseCopied(name string, copied []byte) (rec *snapshot.Record, object []byte, err error) {
	session, object, err := format.SplitCopied(name, copied)
	if err != nil {
		return nil, nil, stored.Damaged("reading", name, err)
	}
	if rec, err = r.SnapshotObject("snapshots/"+session.String(), object); err != nil {
		return nil, nil, err
	}
	if rec.Kind != snapshot.Snapshot {
		return nil, nil, stored.Damaged("reading", name, errors.New("not the record of a snapshot"))
	}
	return rec, object, nil
}

// parseGroup opens a group object. Of one that does not match its name whole is false, and shards that do not match their digests are nil; where
// not even the body can be opened the error matches ErrDamaged or ErrTampered.
func (r *Repo) parseGroup(name string, object []byte) (g *format.Group, shards [][]byte, whole bool, err error) {
	sealed, parity, err := format.SplitGroup(object)
	if err != nil {
		return nil, nil, false, stored.Damaged("reading", name, err)
	}
	// The sealed body is opened as if it were the object: its type is one that is named by its hash.
	if g, _, err = openBody[format.Group](r, crypt.TypeGroup, "group/"+crypt.Sum(sealed).String(), sealed); err != nil {
		return nil, nil, false, err
	}
	shards, whole = g.Shards(parity)
	return g, shards, whole && name == "group/"+crypt.Sum(object).String(), nil
}

// parseSuccession opens roots/<sha256> and checks both of its signatures. Errors match ErrDamaged or ErrTampered.
func (r *Repo) parseSuccession(name string, object []byte) (*format.Succession, error) {
	s, err := format.ParseSuccession(r.config.ID, name, object)
	switch {
	case errors.Is(err, crypt.ErrSignature):
		return nil, stored.Tampered("reading", name, err)
	case err != nil:
		return nil, stored.Damaged("reading", name, err)
	}
	return s, nil
}
