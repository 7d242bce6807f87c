// Package repotest makes repositories for tests: one is made in earnest, the others are copies, because keys cost more than most tests.
package repotest

import (
	"context"
	"sync"
	"time"

	"packhold/backends"
	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo/admin"
	"packhold/repo/format"
	"packhold/repo/writeonce"
)

// Passphrase opens every repository made here.
const Passphrase = "correct horse battery"

// readKey is one RSA key for all: making one takes seconds.
var readKey = sync.OnceValues(func() (*crypt.ReadPrivate, error) { return crypt.NewReadKey(1) })

// Options say what kind of repository to make.
type Options struct {
	Parity   int
	PackSize int
	Lock     time.Duration // of write-once; ten times as long for the class "long"
}

// Init makes a repository whose first host is "host-a", and returns that host's credential.
func Init(ctx context.Context, s backends.Storage, o Options) (*crypt.Credential, error) {
	key, err := readKey()
	if err != nil {
		return nil, err
	}
	var lock writeonce.Policy
	if o.Lock > 0 {
		lock = writeonce.Policy{Length: o.Lock, Classes: map[string]time.Duration{"long": 10 * o.Lock}}
	}
	return admin.Init(ctx, s, admin.InitOptions{Lock: lock, Passphrase: []byte(Passphrase), Iterations: crypt.MinIterations,
		Config: format.Config{Profile: format.Standard, Chunker: chunk.DefaultParams()}, Parity: o.Parity, PackSize: o.PackSize,
		Compression: "fastest", HostName: "host-a", Label: "first", ReadKey: key, Now: time.Now()})
}

// made is a repository in memory.
type made struct {
	objects    map[string][]byte
	credential *crypt.Credential
}

var (
	templatesMu sync.Mutex // guards templates, and is held while one is made
	templates   = make(map[Options]made)
)

// Copy fills an empty storage with a repository like that of Init: all copies of the same Options have the same keys.
func Copy(ctx context.Context, s backends.Storage, o Options) (*crypt.Credential, error) {
	templatesMu.Lock()
	defer templatesMu.Unlock()
	m, ok := templates[o]
	if !ok {
		c, err := Init(ctx, s, o)
		if err != nil {
			return nil, err
		}
		m = made{make(map[string][]byte), c}
		for info, err := range s.List(ctx, "") {
			if err != nil {
				return nil, err
			}
			if m.objects[info.Name], err = s.Get(ctx, info.Name, 0, -1); err != nil {
				return nil, err
			}
		}
		templates[o] = m
		return c, nil
	}
	for name, data := range m.objects {
		if err := s.Put(ctx, name, data, backends.PutOptions{IfAbsent: true}); err != nil {
			return nil, err
		}
	}
	return m.credential, nil
}
