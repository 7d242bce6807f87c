package run

import (
	"os"
	"path/filepath"

	"packhold/repo"
	"packhold/repo/snapshot"
)

// KeepBody keeps the part of a snapshot that only readers may see for this host's own list.
func (r *Repository) KeepBody(s *repo.Snapshot) error {
	if r.Credential == nil || s.Body == nil {
		return nil
	}
	kept := *s.Body
	kept.Skipped, kept.SkippedMore = nil, kept.SkippedMore+uint64(len(kept.Skipped)) // names that the list does not show
	b, err := kept.Marshal()
	if err != nil {
		return err
	}
	sealed, err := r.Credential.Local.Seal("body", b)
	if err != nil {
		return err
	}
	return WriteFile(r.bodyPath(s), sealed)
}

func (r *Repository) bodyPath(s *repo.Snapshot) string {
	return filepath.Join(r.CacheDir, "bodies", s.ID().String())
}

// BodyOf finds the part of a snapshot that only readers may see: with the passphrase, or if this host made it. nil if it stays closed.
func (r *Repository) BodyOf(s *repo.Snapshot) *snapshot.Body {
	if r.CanRead() {
		if b, err := r.OpenBody(s); err == nil {
			return b
		}
	}
	if r.Credential == nil || s.Host != r.Credential.Identity.Host {
		return nil
	}
	sealed, err := os.ReadFile(r.bodyPath(s))
	if err != nil {
		return nil
	}
	b, err := r.Credential.Local.Open("body", sealed)
	if err != nil {
		return nil
	}
	body, err := snapshot.ParseBody(b)
	if err != nil {
		return nil
	}
	return body
}
