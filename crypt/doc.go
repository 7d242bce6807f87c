// Package crypt holds keys: it names, seals, opens and signs. It does no I/O.
//
// The tree of keys:
//
//	passphrase -> key slot -> bundle -> write secrets W by epoch, private read keys by epoch, root identity
//	read key   -> session key -> pack key -> blob key
//	W          -> keys of tables, index segments, snapshot envelopes, control objects
//
// A host that backs up holds W and the public read keys: it seals what it cannot open.
package crypt
