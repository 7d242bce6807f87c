package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo/stored"
)

func (a *app) statsCommand() *cli.Command {
	return &cli.Command{Name: "stats", Usage: "print how large the repository is and what it saves",
		Flags: []cli.Flag{run.KeyHintFlag(), run.KeyFileFlag()}, Action: a.Action(a.stats)}
}

// repositoryStats is what stats prints.
type repositoryStats struct {
	ID          string  `json:"id"`
	Profile     string  `json:"profile"`
	Chunker     string  `json:"chunker"`
	Compression string  `json:"compression"`
	Parity      int     `json:"parity"`
	Hosts       int     `json:"hosts"`
	Snapshots   int     `json:"snapshots"`
	SourceBytes uint64  `json:"source_bytes"` // of all snapshots together
	Blobs       uint64  `json:"blobs"`
	BlobBytes   uint64  `json:"blob_bytes"`
	Sealed      uint64  `json:"sealed_bytes"`
	Packs       int     `json:"packs"`
	PackBytes   uint64  `json:"pack_bytes"`
	TreePacks   int     `json:"tree_packs"`
	TreeBytes   uint64  `json:"tree_pack_bytes"`
	Files       int     `json:"files"` // of the repository
	Stored      uint64  `json:"stored_bytes"`
	Dedup       float64 `json:"dedup_ratio"`
	Compressed  float64 `json:"compression_ratio"`
}

func (a *app) stats(ctx context.Context, v run.Values, _ []string) error {
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	hosts, err := hosts(ctx, r)
	if err != nil {
		return err
	}
	if err := r.LoadIndex(ctx); err != nil {
		return err
	}
	cfg, set := r.Config(), r.Settings()
	s := repositoryStats{ID: hex.EncodeToString(cfg.ID[:]), Profile: string(cfg.Profile), Compression: set.Compression, Parity: int(set.Parity),
		Chunker: fmt.Sprintf("%s, average %s", cfg.Chunker.Rule, term.Bytes(int64(cfg.Chunker.Avg)))}
	for _, h := range hosts {
		if h.Roles&crypt.RoleWriter != 0 {
			s.Hosts++
		}
		s.Snapshots, s.SourceBytes = s.Snapshots+h.snapshots, s.SourceBytes+h.bytes
	}
	for l, err := range r.Index().All() {
		if err != nil {
			return err
		}
		s.Blobs++
		s.BlobBytes += uint64(l.Raw)
		s.Sealed += uint64(l.Length)
	}
	seen := make(map[index.PackID]bool)
	for p, err := range r.Index().Packs() {
		if err != nil {
			return err
		}
		if seen[p.PackID] {
			continue
		}
		seen[p.PackID] = true
		if p.Tree() {
			s.TreePacks, s.TreeBytes = s.TreePacks+1, s.TreeBytes+p.Size
		} else {
			s.Packs, s.PackBytes = s.Packs+1, s.PackBytes+p.Size
		}
	}
	infos, _, err := stored.List(ctx, r.Store, "")
	if err != nil {
		return err
	}
	s.Files = len(infos)
	for _, i := range infos {
		s.Stored += uint64(i.Size)
	}
	ratio := func(before, after uint64) float64 {
		if after == 0 {
			return 1
		}
		return float64(before) / float64(after)
	}
	s.Dedup, s.Compressed = ratio(s.SourceBytes, s.BlobBytes), ratio(s.BlobBytes, s.Sealed)
	if a.Out.JSON {
		return a.Out.Object("stats", s)
	}
	size := func(n uint64) string { return term.Bytes(int64(n)) }
	count := func(n int) string { return term.Count(int64(n)) }
	var b strings.Builder
	row := func(name, value string) { fmt.Fprintf(&b, "%-14s %s\n", name, value) }
	row("repository", s.ID)
	row("profile", s.Profile)
	row("chunks", s.Chunker)
	row("compression", s.Compression)
	row("parity", fmt.Sprintf("%d shards per pack", s.Parity))
	row("hosts", count(s.Hosts))
	row("snapshots", fmt.Sprintf("%s, %s of files in all", count(s.Snapshots), size(s.SourceBytes)))
	row("blobs", fmt.Sprintf("%s, %s, compressed %s", count(int(s.Blobs)), size(s.BlobBytes), size(s.Sealed)))
	row("data packs", fmt.Sprintf("%s, %s", count(s.Packs), size(s.PackBytes)))
	row("tree packs", fmt.Sprintf("%s, %s", count(s.TreePacks), size(s.TreeBytes)))
	row("stored", fmt.Sprintf("%s in %s", size(s.Stored), term.Plural(int64(s.Files), "file")))
	row("dedup", fmt.Sprintf("%.2f : 1", s.Dedup))
	row("compression", fmt.Sprintf("%.2f : 1", s.Compressed))
	a.Out.Data(b.String())
	return nil
}
