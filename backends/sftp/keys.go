package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// keys are what a Store logs in with.
type keys struct {
	o Options

	mu     sync.Mutex            // guards opened, and keeps passphrases from being asked twice
	opened map[string]ssh.Signer // encrypted key files that a passphrase was given for
}

// login is one attempt. Its methods are called by the handshake, one after the other.
type login struct {
	keys   *keys
	limit  *deadline
	agent  io.Closer
	failed error    // what ended it, if not the server
	offers []string // what was offered to the server
	notes  []string // what was passed over
}

func (k *keys) login(limit *deadline) *login { return &login{keys: k, limit: limit} }

func (l *login) end() {
	if l.agent != nil {
		_ = l.agent.Close()
	}
}

func (l *login) String() string {
	text := "offered: " + strings.Join(l.offers, ", ")
	if len(l.offers) == 0 {
		text = "none was offered"
	}
	if len(l.notes) > 0 {
		text += "; " + strings.Join(l.notes, "; ")
	}
	return text
}

func (l *login) note(format string, args ...any) {
	l.notes = append(l.notes, fmt.Sprintf(format, args...))
}

// signers returns the keys to offer: those of files first, because a server ends a login after a few wrong ones.
func (l *login) signers() ([]ssh.Signer, error) {
	held := l.agentSigners()
	inAgent := map[string]ssh.Signer{}
	for _, s := range held {
		inAgent[string(s.PublicKey().Marshal())] = s
	}
	var list []ssh.Signer
	named := map[string]bool{} // public keys of files
	for _, file := range l.keys.o.KeyFiles {
		s := l.fileSigner(file)
		if s == nil {
			continue
		}
		blob := string(s.PublicKey().Marshal())
		named[blob] = true
		if a := inAgent[blob]; a != nil {
			s = a // which needs no passphrase
		} else if l.locked(s) && l.keys.o.Passphrase == nil {
			l.note("%s is encrypted, and there is no passphrase", file)
			continue
		}
		if cert := l.certificate(file, s); cert != nil {
			list = append(list, cert)
		}
		list = append(list, s)
		l.offers = append(l.offers, file)
	}
	for _, s := range held {
		if !named[string(s.PublicKey().Marshal())] && !l.keys.o.IdentitiesOnly {
			list = append(list, s)
			l.offers = append(l.offers, "agent's "+ssh.FingerprintSHA256(s.PublicKey()))
		}
	}
	return list, nil
}

func (l *login) agentSigners() []ssh.Signer {
	socket := l.keys.o.AgentSocket
	if socket == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(l.limit.ctx, "unix", socket)
	if err != nil {
		l.note("the agent does not answer: %v", err)
		return nil
	}
	context.AfterFunc(l.limit.ctx, func() { _ = conn.Close() }) // the end of the login closes it, or the end of its time
	l.end()                                                     // asked again by a server that wants several keys
	l.agent = conn
	held, err := agent.NewClient(conn).Signers()
	if err != nil {
		l.note("the agent does not answer: %v", err)
	}
	return held
}

// locked reports whether signing with s has to ask for a passphrase.
func (l *login) locked(s ssh.Signer) bool {
	encrypted, ok := s.(*encryptedKey)
	if !ok {
		return false
	}
	l.keys.mu.Lock()
	defer l.keys.mu.Unlock()
	return l.keys.opened[encrypted.file] == nil
}

// fileSigner returns the key of a file, or nil, having noted why not.
func (l *login) fileSigner(file string) ssh.Signer {
	text, err := os.ReadFile(file)
	if err != nil {
		l.note("%v", err)
		return nil
	}
	s, err := ssh.ParsePrivateKey(text)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return s
	case !errors.As(err, &missing):
		l.note("%s: %v", file, err)
		return nil
	}
	public := missing.PublicKey
	if public == nil { // older formats do not tell
		line, err := os.ReadFile(file + ".pub")
		if err == nil {
			public, _, _, _, err = ssh.ParseAuthorizedKey(line)
		}
		if err != nil {
			l.note("%s is encrypted and its public key not at hand: %v", file, err)
			return nil
		}
	}
	return &encryptedKey{login: l, file: file, text: text, public: public}
}

// certificate returns the key with the certificate beside its file, or nil if there is none.
func (l *login) certificate(file string, s ssh.Signer) ssh.Signer {
	line, err := os.ReadFile(file + "-cert.pub")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		var public ssh.PublicKey
		if public, _, _, _, err = ssh.ParseAuthorizedKey(line); err == nil {
			cert, ok := public.(*ssh.Certificate)
			if ok {
				var signer ssh.Signer
				if signer, err = ssh.NewCertSigner(cert, s); err == nil {
					return signer
				}
			} else {
				err = errors.New("no certificate")
			}
		}
	}
	l.note("%s-cert.pub: %v", file, err)
	return nil
}

// encryptedKey asks for its passphrase when it is used, which is after the server accepted its public key.
type encryptedKey struct {
	login  *login
	file   string
	text   []byte
	public ssh.PublicKey
}

var _ ssh.AlgorithmSigner = (*encryptedKey)(nil)

func (e *encryptedKey) PublicKey() ssh.PublicKey { return e.public }

func (e *encryptedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return e.SignWithAlgorithm(rand, data, "")
}

func (e *encryptedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	s, err := e.open()
	if err != nil {
		e.login.failed = err
		return nil, err
	}
	if a, ok := s.(ssh.AlgorithmSigner); ok && algorithm != "" {
		return a.SignWithAlgorithm(rand, data, algorithm)
	}
	return s.Sign(rand, data)
}

func (e *encryptedKey) open() (ssh.Signer, error) {
	k := e.login.keys
	e.login.limit.pause()
	defer e.login.limit.resume()
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.opened[e.file]; s != nil {
		return s, nil
	}
	passphrase, err := k.o.Passphrase(e.login.limit.ctx, e.file)
	if err != nil {
		return nil, fmt.Errorf("asking for the passphrase of %s: %w", e.file, err)
	}
	s, err := ssh.ParsePrivateKeyWithPassphrase(e.text, passphrase)
	if err != nil {
		return nil, fmt.Errorf("decrypting %s: %w: %v", e.file, fs.ErrPermission, err)
	}
	if !bytes.Equal(s.PublicKey().Marshal(), e.public.Marshal()) {
		return nil, fmt.Errorf("%s.pub is not the public key of %s", e.file, e.file)
	}
	if k.opened == nil {
		k.opened = map[string]ssh.Signer{}
	}
	k.opened[e.file] = s
	return s, nil
}
