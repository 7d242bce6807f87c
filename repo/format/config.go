package format

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"packhold/chunk"
	"packhold/crypt"
)

// Profile names the set of algorithms a repository uses.
type Profile string

// The profiles. FIPS uses nothing outside the Go Cryptographic Module in a security role: its shard hash is SHA-256.
const (
	Standard Profile = "standard"
	FIPS     Profile = "fips"
)

// Config is the part of a repository that never changes. It is readable without any key, and signed by the root.
type Config struct {
	ID      crypt.RepoID
	Profile Profile
	Created int64 // Unix seconds
	Root    ed25519.PublicKey
	Chunker chunk.Params
}

// configForm is the stored JSON. Its canonical form is json.MarshalIndent with two spaces and a final newline; the signature is over
// the same form with an empty signature.
type configForm struct {
	Packhold   int         `json:"packhold"`
	Repository string      `json:"repository"`
	Profile    Profile     `json:"profile"`
	Created    int64       `json:"created"`
	Root       string      `json:"root"`
	Chunker    chunkerForm `json:"chunker"`
	Signature  string      `json:"signature"`
}

type chunkerForm struct {
	Rule string `json:"rule"`
	Min  int    `json:"min"`
	Avg  int    `json:"average"`
	Max  int    `json:"max"`
}

// strictBase64 has one form for every value: the unused bits of the last digit are zero.
var strictBase64 = base64.StdEncoding.Strict()

// maxConfig caps the size of a config in bytes: a real one is under 700.
const maxConfig = 16 << 10

func (f configForm) bytes() []byte {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		panic("format: config does not encode: " + err.Error()) // strings and integers only
	}
	return append(b, '\n')
}

// Marshal signs and encodes c.
func (c *Config) Marshal(root *crypt.Root) ([]byte, error) {
	f := configForm{Packhold: crypt.Format, Repository: hex.EncodeToString(c.ID[:]), Profile: c.Profile, Created: c.Created,
		Root:    hex.EncodeToString(c.Root),
		Chunker: chunkerForm{c.Chunker.Rule, c.Chunker.Min, c.Chunker.Avg, c.Chunker.Max}}
	signed, err := crypt.ParseSigned(root.Sign(crypt.TypeConfig, "config", f.bytes()))
	if err != nil {
		return nil, err
	}
	f.Signature = strictBase64.EncodeToString(signed.Sig)
	return f.bytes(), nil
}

// ParseConfig decodes a config. The signature is by the root key that the config itself names, so it finds damage; whether that root is
// the right one is for the holder of a credential or key slot to say.
func ParseConfig(b []byte) (*Config, error) {
	c, err := parseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("parsing config: %w", err)
	}
	return c, nil
}

func parseConfig(b []byte) (*Config, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(b), maxConfig)
	}
	var f configForm
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Packhold != crypt.Format {
		return nil, fmt.Errorf("%w %d, this program knows %d", crypt.ErrFormat, f.Packhold, crypt.Format)
	}
	if !bytes.Equal(f.bytes(), b) {
		return nil, errors.New("not in canonical form")
	}
	id, err := hex.DecodeString(f.Repository)
	if err != nil || len(id) != 16 || hex.EncodeToString(id) != f.Repository {
		return nil, errors.New("bad repository id")
	}
	root, err := hex.DecodeString(f.Root)
	if err != nil || len(root) != ed25519.PublicKeySize || hex.EncodeToString(root) != f.Root {
		return nil, errors.New("bad root key")
	}
	sig, err := strictBase64.DecodeString(f.Signature)
	if err != nil {
		return nil, errors.New("bad signature")
	}
	c := &Config{ID: crypt.RepoID(id), Profile: f.Profile, Created: f.Created, Root: root,
		Chunker: chunk.Params{Rule: f.Chunker.Rule, Min: f.Chunker.Min, Avg: f.Chunker.Avg, Max: f.Chunker.Max}}
	if c.Profile != Standard && c.Profile != FIPS {
		return nil, fmt.Errorf("profile %q: %w", c.Profile, crypt.ErrPolicy)
	}
	f.Signature = ""
	if err := crypt.Verify(root, crypt.TypeConfig, c.ID, "config", &crypt.Signed{Body: f.bytes(), Sig: sig}); err != nil {
		return nil, err
	}
	if err := c.Chunker.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}
