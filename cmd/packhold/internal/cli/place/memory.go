package place

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"packhold/backends/s3"
	"packhold/cmd/packhold/internal/cli/config"
)

// memory is what was found out about a place: asking again costs dozens of requests.
type memory struct {
	Place  string       `json:"place"`
	When   time.Time    `json:"when"`
	Region string       `json:"region,omitempty"`
	S3     s3.Abilities `json:"s3"`
	Swept  time.Time    `json:"swept,omitzero"` // when what killed runs left was last removed
}

// sweepEvery is how often what killed runs left half written is looked for on a server: it counts as theirs after a day.
const sweepEvery = 24 * time.Hour

// trusted is how long what a place can do counts as known. Servers are replaced and buckets are changed.
const trusted = 30 * 24 * time.Hour

// sweeps reports whether what killed runs left is to be removed now. A nil m knows nothing.
func (m *memory) sweeps(o Options) bool {
	return o.Stale && (m == nil || o.Now().Sub(m.Swept).Abs() > sweepEvery)
}

func memoryFile(folder string, l config.Location) string {
	sum := sha256.Sum256([]byte(l.String()))
	return filepath.Join(folder, hex.EncodeToString(sum[:8])+".json")
}

// recall returns what is known of a place, nil if nothing is.
func recall(o Options, l config.Location) *memory {
	if o.Memory == "" {
		return nil
	}
	b, err := os.ReadFile(memoryFile(o.Memory, l))
	if err != nil {
		return nil
	}
	m := new(memory)
	if json.Unmarshal(b, m) != nil || m.Place != l.String() || o.Now().Sub(m.When) > trusted {
		return nil
	}
	return m
}

// remember writes m down, found out when it says, or now. It saves requests only, so a failure is none.
func remember(o Options, l config.Location, m memory) {
	if o.Memory == "" {
		return
	}
	if m.Place = l.String(); m.When.IsZero() {
		m.When = o.Now()
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err == nil && os.MkdirAll(o.Memory, 0o700) == nil {
		_ = os.WriteFile(memoryFile(o.Memory, l), append(b, '\n'), 0o600)
	}
}

// Forget makes the next Open find out anew what a place can do.
func Forget(o Options, l config.Location) {
	if o.Memory != "" {
		_ = os.Remove(memoryFile(o.Memory, l))
	}
}
