package format

// SealedBody is the Body of a snapshot's record (repo/snapshot): the session record, from which a reader finds the key, and what that key seals.
type SealedBody struct {
	_       struct{} `cbor:",toarray"`
	Session []byte
	Sealed  []byte
}
