package stored

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo/format"
)

// surveyNames is how many names a Survey has at most: those of one answer of S3.
const surveyNames = 1000

// surveyFresh is how old the newest survey may be where something is only looked for: what was stored since, another host might have stored a moment
// later just as well.
const surveyFresh = time.Second

// Surveys takes surveys of one storage. Its methods may be called concurrently.
type Surveys struct {
	storage backends.Storage
	now     func() time.Time
	far     bool
	flat    atomic.Bool

	mu     sync.Mutex // guards newest
	newest *Survey
}

// NewSurveys returns one for a storage that is far, where a listing costs round trips, and perhaps flat: there it is one request whatever it lists. Of
// a near one it takes none.
func NewSurveys(s backends.Storage, now func() time.Time, far, flat bool) *Surveys {
	v := &Surveys{storage: s, now: now, far: far}
	v.flat.Store(flat)
	return v
}

// Far reports whether calls on the storage wait for round trips.
func (v *Surveys) Far() bool { return v.far }

// Compare is stored.Compare of an object in the storage, at once where that is far.
func (v *Surveys) Compare(ctx context.Context, name string, data []byte) error {
	window := NearWindow
	if v.far {
		window = max(len(data), 1)
	}
	return Compare(ctx, v.storage, name, data, window)
}

// All takes a survey of everything, where that is one request; else it is nil.
func (v *Surveys) All(ctx context.Context) (*Survey, error) {
	if !v.flat.Load() {
		return nil, nil
	}
	s, err := look(ctx, v.storage, v.now())
	if err == nil && s == nil {
		v.flat.Store(false) // nor will the next one be smaller
	}
	return v.took(s, err)
}

// partsAtOnce is how many listings are under way: enough for one step where there is a dozen of prefixes, and no more than connections share.
const partsAtOnce = 12

// Parts takes a survey of what is below prefixes, all at once: in no order. Of packs/ and meta/ it has Packs alone. It is nil for a near storage.
func (v *Surveys) Parts(ctx context.Context, prefixes ...string) (*Survey, error) {
	if !v.far {
		return nil, nil
	}
	s := &Survey{at: v.now(), parts: make(map[string][]backends.Info)}
	var mu sync.Mutex // guards s
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	for _, prefix := range prefixes {
		g.Go(func() error {
			if prefix == "packs/" {
				list, err := ListPacks(gctx, v.storage)
				mu.Lock()
				defer mu.Unlock()
				s.packs = &list
				return err
			}
			infos, _, err := List(gctx, v.storage, prefix)
			mu.Lock()
			defer mu.Unlock()
			s.parts[prefix] = infos
			return err
		})
	}
	return v.took(s, g.Wait())
}

func (v *Surveys) took(s *Survey, err error) (*Survey, error) {
	if err != nil {
		s = nil
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

// Survey is one listing of everything, or several at once, in place of one after the other, for storages where each costs round trips. It serves the one
// operation that began with it. A nil one asks the storage each time.
type Survey struct {
	at    time.Time                  // when it began
	infos []backends.Info            // by name; all, unless there are parts
	parts map[string][]backends.Info // by prefix
	packs *Packs                     // beside parts; nil: not listed
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
		if infos, ok := v.shows(prefix); ok {
			return infos, nil
		}
	}
	infos, _, err := List(ctx, s, prefix)
	return infos, err
}

// shows returns what is below a prefix, and whether the survey can tell.
func (v *Survey) shows(prefix string) ([]backends.Info, bool) {
	if v.parts == nil {
		return v.under(prefix), true
	}
	infos, ok := v.parts[prefix]
	return slices.Clone(infos), ok
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
	size, _ := v.Size(name)
	object, done, err := NewBudget().FetchListed(ctx, s, backends.Info{Name: name, Size: size})
	done()
	return object, err
}

// Size returns the size of an object that the survey shows.
func (v *Survey) Size(name string) (size int64, ok bool) {
	if v == nil {
		return 0, false
	}
	all := v.infos
	if v.parts != nil {
		all = v.parts[name[:strings.LastIndexByte(name, '/')+1]]
	}
	at, ok := slices.BinarySearchFunc(all, name, func(i backends.Info, name string) int { return strings.Compare(i.Name, name) })
	if !ok {
		return 0, false
	}
	return all[at].Size, true
}

// Packs is ListPacks.
func (v *Survey) Packs(ctx context.Context, s backends.Storage) (Packs, error) {
	switch {
	case v == nil || v.parts != nil && v.packs == nil:
		return ListPacks(ctx, s)
	case v.parts != nil:
		return *v.packs, nil
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
