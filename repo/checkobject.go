package repo

import (
	"bytes"
	"errors"
	"fmt"
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
	case "group", "copied", "roots":
		if !strings.HasSuffix(name, crypt.Sum(b).String()) {
			return bad(errors.New("the bytes do not match the name"))
		}
		return nil
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
func (r *Repo) checkControl(prefix, name, rest string, b []byte) error {
	types := map[string]crypt.Type{"settings": crypt.TypeSettings, "hosts": crypt.TypeHost, "leases": crypt.TypeLease,
		"forgotten": crypt.TypeForgotten, "marks": crypt.TypeMark, "verified": crypt.TypeVerified}
	if prefix == "condemned" {
		_, suffix, _ := strings.Cut(rest, ".")
		_, err := r.parseSet(name, suffix, b)
		return err
	}
	t, ok := types[prefix]
	if !ok {
		return fmt.Errorf("no object of format 1 is called so")
	}
	s, err := r.openSigned(t, name, b)
	if err != nil {
		return err
	}
	switch t {
	case crypt.TypeSettings:
		v, err := parseBody[Settings](s.Body)
		if err != nil {
			return err
		}
		if strconv.FormatUint(v.Generation, 10) != rest {
			return errors.New("it is another generation")
		}
		return v.validate()
	case crypt.TypeHost:
		_, err = crypt.ParseCertificate(s.Body)
	case crypt.TypeLease:
		var l *Lease
		if l, err = parseBody[Lease](s.Body); err == nil && (l.Host != s.Signer || len(l.Nonce) != 32 ||
			crypt.NewSessionID(l.Host, [32]byte(l.Nonce)) != l.Session) {
			return tampered("checking", name, errors.New("the session is not its signer's"))
		}
	case crypt.TypeForgotten:
		_, err = parseBody[Forgotten](s.Body)
	case crypt.TypeMark:
		_, err = parseBody[Mark](s.Body)
	case crypt.TypeVerified:
		_, err = parseBody[Verified](s.Body)
	}
	return err
}
