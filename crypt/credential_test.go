package crypt

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func testCredential(t testing.TB) *Credential {
	t.Helper()
	return &Credential{Repo: testRepo, Root: testRoot().Public(), Identity: testIdentity(t, 1), Writes: map[uint32]WriteSecret{0: fixed(1), 12: fixed(2)},
		Chunker: fixed(3), Read: []*ReadPublic{testReadKey(t, 1).Public(), testReadKey(t, 2).Public()}, Local: LocalKey(fixed(4))}
}

func TestCredential(t *testing.T) {
	c := testCredential(t)
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	byValue, err := json.Marshal(*c)
	if err != nil || !bytes.Equal(b, byValue) {
		t.Fatal("a credential by value is encoded in another form", err)
	}
	var got Credential
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Repo != c.Repo || !got.Root.Equal(c.Root) || got.Identity.Host != c.Identity.Host || !got.Identity.Sign.Equal(c.Identity.Sign) ||
		len(got.Writes) != 2 || got.Writes[0] != c.Writes[0] || got.Writes[12] != c.Writes[12] || got.Chunker != c.Chunker || got.Local != c.Local ||
		len(got.Read) != 2 || got.Read[1].Epoch != 2 || !got.Read[1].RSA.Equal(c.Read[1].RSA) {
		t.Fatal("the credential differs")
	}
	again, err := json.Marshal(got)
	if err != nil || !bytes.Equal(again, b) {
		t.Fatal("the credential is encoded in another form", err)
	}
	if _, err := json.Marshal(Credential{}); err == nil {
		t.Error("a credential without identity was encoded")
	}
}

func TestCredentialRefused(t *testing.T) {
	b, err := json.Marshal(testCredential(t))
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	replace := func(old, new string) string {
		if strings.Count(good, old) == 0 {
			t.Fatalf("%q is not in the credential", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for what, c := range map[string]struct {
		text string
		want error
	}{
		"empty":              {"", nil},
		"null":               {"null", ErrFormat},
		"no object":          {"[]", nil},
		"nothing in it":      {"{}", ErrFormat},
		"another format":     {replace(`"packhold":1`, `"packhold":2`), ErrFormat},
		"unknown field":      {replace(`{"packhold"`, `{"x":1,"packhold"`), nil},
		"two values":         {good + good, nil},
		"rest":               {good + "x", nil},
		"repository":         {replace(`"repository":"01`, `"repository":"`), nil},
		"repository not hex": {replace(`"repository":"0`, `"repository":"g`), nil},
		"root":               {replace(`"root":"`, `"root":"AAAA`), nil},
		"identity":           {replace(`"identity":"`, `"identity":"AAAA`), nil},
		"identity no base64": {replace(`"identity":"`, `"identity":"-`), nil},
		"epoch 012":          {replace(`"12":`, `"012":`), nil},
		"epoch +12":          {replace(`"12":`, `"+12":`), nil},
		"epoch 0x12":         {replace(`"12":`, `"0x12":`), nil},
		"epoch 12 with rest": {replace(`"12":`, `"12 ":`), nil},
		"epoch 2^32":         {replace(`"12":`, `"4294967296":`), nil},
		"epoch -1":           {replace(`"12":`, `"-1":`), nil},
		"write secret":       {replace(`"12":"`, `"12":"AAAA`), nil},
		"chunker":            {replace(`"chunker":"`, `"chunker":"AAAA`), nil},
		"local":              {replace(`"local":"`, `"local":"AAAA`), nil},
		"trailing bits":      {replace(`"local":"BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=`, `"local":"BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAR=`), nil},
		"wrap":               {replace(`"wrap":1`, `"wrap":2`), ErrPolicy},
		"RSA":                {replace(`"rsa":"`, `"rsa":"AAAA`), nil},
		"HPKE":               {replace(`"hpke":"`, `"hpke":"AAAA`), nil},
		"too long":           {good + strings.Repeat(" ", maxCredential), nil},
	} {
		got := Credential{Chunker: fixed(1)}
		err := got.UnmarshalJSON([]byte(c.text))
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		if got.Chunker != fixed(1) || got.Identity != nil {
			t.Errorf("%s: the credential was changed by half", what)
		}
	}
	for n := 0; n < len(good); n += 97 {
		if err := new(Credential).UnmarshalJSON([]byte(good[:n])); err == nil {
			t.Errorf("the first %d bytes were accepted", n)
		}
	}
}
