package stored

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo/format"
)

// surveyNames is how many names a Survey has at most: those of one answer of S3.
const surveyNames = 1000

// surveyFresh is how old the newest survey may be where something is only looked for: what was stored since, another host might have stored a moment
// later just as well.
const surveyFresh = time.Second

// Surveys takes surveys of one storage, where a listing is one request whatever it lists. Its methods may be called concurrently.
type Surveys struct {
	storage backends.Storage
	now     func() time.Time
	flat    atomic.Bool

	mu     sync.Mutex // guards newest
	newest *Survey
}

// NewSurveys returns one that never takes any unless flat is set, nor after one that was too large.
func NewSurveys(s backends.Storage, now func() time.Time, flat bool) *Surveys {
	v := &Surveys{storage: s, now: now}
	v.flat.Store(flat)
	return v
}

// Take takes a survey; nil is none.
func (v *Surveys) Take(ctx context.Context) (*Survey, error) {
	if !v.flat.Load() {
		return nil, nil
	}
	s, err := look(ctx, v.storage, v.now())
	if err == nil && s == nil {
		v.flat.Store(false) // nor will the next one be smaller
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.newest = s
	return s, err
}

// Recent returns the newest survey if it is fresh, else nil. Nothing that removes what others store may rest on it.
func (v *Surveys) Recent() *Survey {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.newest; s != nil && v.now().Sub(s.at).Abs() < surveyFresh {
		return s
	}
	return nil
}

// Storing notes that an object is about to be stored, which listings must show from then on. Of these kinds nothing is looked up in a Recent one.
func (v *Surveys) Storing(t crypt.Type) {
	if t == crypt.TypeIndex || t == crypt.TypeAuditTile || t == crypt.TypeAuditCheckpoint {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.newest = nil
}

// Survey is one listing of everything in place of many of its parts, for storages where a listing costs a round trip whatever it lists. It serves the
// one operation that began with it. A nil one asks the storage each time.
type Survey struct {
	at    time.Time       // when it began
	infos []backends.Info // by name
}

// look lists everything. It returns nil if that would be more than one answer.
func look(ctx context.Context, s backends.Storage, at time.Time) (*Survey, error) {
	v := &Survey{at: at}
	names := 0
	for info, err := range s.List(ctx, "") {
		if err != nil {
			return nil, Failed("listing", "", err)
		}
		if names++; names > surveyNames {
			return nil, nil
		}
		if format.KnownName(info.Name) {
			v.infos = append(v.infos, info)
		}
	}
	slices.SortFunc(v.infos, func(a, b backends.Info) int { return strings.Compare(a.Name, b.Name) })
	v.infos = slices.CompactFunc(v.infos, func(a, b backends.Info) bool { return a.Name == b.Name }) // a retried listing may repeat a name
	return v, nil
}

// List returns the known names under prefix, sorted, as List would have when the survey began.
func (v *Survey) List(ctx context.Context, s backends.Storage, prefix string) ([]backends.Info, error) {
	if v != nil {
		return v.under(prefix), nil
	}
	infos, _, err := List(ctx, s, prefix)
	return infos, err
}

func (v *Survey) under(prefix string) []backends.Info {
	from, _ := slices.BinarySearchFunc(v.infos, prefix, func(i backends.Info, p string) int { return strings.Compare(i.Name, p) })
	to := from
	for to < len(v.infos) && strings.HasPrefix(v.infos[to].Name, prefix) {
		to++
	}
	return slices.Clone(v.infos[from:to])
}

// Fetch is Fetch, which need not ask for the size of what the survey shows.
func (v *Survey) Fetch(ctx context.Context, s backends.Storage, name string) ([]byte, error) {
	i := backends.Info{Name: name}
	if v != nil {
		if found := v.under(name); len(found) > 0 && found[0].Name == name {
			i = found[0]
		}
	}
	object, done, err := NewBudget().FetchListed(ctx, s, i)
	done()
	return object, err
}

// Packs is ListPacks.
func (v *Survey) Packs(ctx context.Context, s backends.Storage) (Packs, error) {
	if v == nil {
		return ListPacks(ctx, s)
	}
	var list Packs
	for _, info := range append(v.under("packs/"), v.under("meta/")...) {
		id, _, incarnation, err := format.ParsePackName(info.Name)
		if err != nil {
			return nil, Damaged("listing", info.Name, err)
		}
		list = append(list, listedPack{bitsOf(id), incarnation, info.Size})
	}
	slices.SortFunc(list, listedPack.compare)
	return list, nil
}
