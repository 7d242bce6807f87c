package crypt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Credential is what an unattended host keeps to back up: its identity, the write secrets, the chunker secret, the
// pinned root and public read keys. Nothing in it reads history. Local seals the host's own cache.
type Credential struct {
	Repo     RepoID
	Root     ed25519.PublicKey
	Identity *Identity
	Writes   map[uint32]WriteSecret
	Chunker  [32]byte
	Read     []*ReadPublic
	Local    LocalKey
}

// credentialForm is writer.json: every value is base64 of bytes, so that the file says nothing by accident.
type credentialForm struct {
	Packhold   int               `json:"packhold"`
	Repository string            `json:"repository"`
	Root       string            `json:"root"`
	Identity   string            `json:"identity"`
	Writes     map[string]string `json:"writes"` // by decimal epoch
	Chunker    string            `json:"chunker"`
	Read       []readForm        `json:"read"`
	Local      string            `json:"local"`
}

type readForm struct {
	Epoch uint32 `json:"epoch"`
	Wrap  uint8  `json:"wrap"`
	RSA   string `json:"rsa"`
	HPKE  string `json:"hpke"`
}

// b64 refuses trailing bits, so that a value has one form.
var b64 = base64.StdEncoding.Strict()

// maxCredential caps writer.json in bytes; one read key takes about 2.4 KiB.
const maxCredential = 1 << 20

// MarshalJSON encodes the credential with its secrets, for a file of mode 0600.
func (c Credential) MarshalJSON() ([]byte, error) {
	if c.Identity == nil {
		return nil, errors.New("encoding credential: no identity")
	}
	id, err := c.Identity.Bytes()
	if err != nil {
		return nil, err
	}
	f := credentialForm{Packhold: Format, Repository: hex.EncodeToString(c.Repo[:]), Root: b64.EncodeToString(c.Root), Identity: b64.EncodeToString(id),
		Writes: map[string]string{}, Chunker: b64.EncodeToString(c.Chunker[:]), Local: b64.EncodeToString(c.Local[:])}
	for e, w := range c.Writes {
		f.Writes[strconv.FormatUint(uint64(e), 10)] = b64.EncodeToString(w[:])
	}
	for _, k := range c.Read {
		form, err := k.Form()
		if err != nil {
			return nil, err
		}
		f.Read = append(f.Read, readForm{form.Epoch, form.Wrap, b64.EncodeToString(form.RSA), b64.EncodeToString(form.HPKE)})
	}
	return json.MarshalIndent(f, "", "  ")
}

// UnmarshalJSON is the inverse of MarshalJSON, up to white space and the order of fields. It leaves c alone on an error.
func (c *Credential) UnmarshalJSON(b []byte) error {
	var n Credential
	if err := n.unmarshal(b); err != nil {
		return fmt.Errorf("parsing credential: %w", err)
	}
	*c = n
	return nil
}

func (c *Credential) unmarshal(b []byte) error {
	if len(b) > maxCredential {
		return fmt.Errorf("%d bytes, the limit is %d", len(b), maxCredential)
	}
	var f credentialForm
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	if f.Packhold != Format {
		return fmt.Errorf("%w %d", ErrFormat, f.Packhold)
	}
	repo, err := hex.DecodeString(f.Repository)
	if err != nil || len(repo) != len(c.Repo) {
		return errors.New("bad repository id")
	}
	c.Repo = RepoID(repo)
	if c.Root, err = b64.DecodeString(f.Root); err != nil || len(c.Root) != ed25519.PublicKeySize {
		return errors.New("bad root key")
	}
	id, err := b64.DecodeString(f.Identity)
	if err != nil {
		return err
	}
	if c.Identity, err = ParseIdentity(id); err != nil {
		return err
	}
	c.Writes = make(map[uint32]WriteSecret)
	for e, w := range f.Writes {
		n, err := strconv.ParseUint(e, 10, 32)
		if err != nil || strconv.FormatUint(n, 10) != e {
			return fmt.Errorf("bad epoch %q", e)
		}
		s, err := b64.DecodeString(w)
		if err != nil || len(s) != 32 {
			return errors.New("bad write secret")
		}
		c.Writes[uint32(n)] = WriteSecret(s)
	}
	for _, dst := range []struct {
		s string
		d *[32]byte
	}{{f.Chunker, &c.Chunker}, {f.Local, (*[32]byte)(&c.Local)}} {
		s, err := b64.DecodeString(dst.s)
		if err != nil || len(s) != 32 {
			return errors.New("bad secret")
		}
		*dst.d = [32]byte(s)
	}
	c.Read = nil
	for _, r := range f.Read {
		k, err := b64.DecodeString(r.RSA)
		if err != nil {
			return err
		}
		h, err := b64.DecodeString(r.HPKE)
		if err != nil {
			return err
		}
		pub, err := ReadKeyForm{r.Epoch, r.Wrap, k, h}.Public()
		if err != nil {
			return err
		}
		c.Read = append(c.Read, pub)
	}
	return nil
}
