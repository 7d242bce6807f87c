package catalogs

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo/catalog"
	"packhold/repo/check"
)

// Ledger is what the catalog knows of when packs were read, as a verification uses it. Where the catalog cannot be used nothing is known, and the verification is the
// same: which packs it reads may differ, never what it says of them.
type Ledger struct {
	a     *run.Run
	c     *catalog.Catalog // nil: none
	what  string           // the name of the check
	now   func() time.Time
	whole bool

	mu      sync.Mutex // guards what follows
	pending []catalog.Check
	written time.Time
}

// These bound what a killed verification forgets, in packs and in time.
const (
	maxPending = 256
	maxUnsaved = 10 * time.Second
)

// OpenLedger opens the ledger for a check of the repository whose folders are those of r, as o says: every blob, or the checksums alone.
func OpenLedger(ctx context.Context, a *run.Run, r *run.Repository, id crypt.RepoID, o *check.Options) *Ledger {
	l := &Ledger{a: a, what: "checksums", now: a.Env.Now, written: a.Env.Now(), whole: o.Subset == 0 && o.Only == nil}
	if o.ReadData {
		l.what = "read-data"
	}
	var err error
	if l.c, err = catalog.Open(ctx, r.CatalogPath(), hex.EncodeToString(id[:])); err != nil {
		l.tell(r, err)
	}
	return l
}

func (l *Ledger) tell(r *run.Repository, err error) {
	l.a.Out.Detail("%s: %v; packhold db-verify looks after it", term.Name(r.CatalogPath()), err)
}

// Prepare completes o by what is known. With resume a check that was interrupted is gone on with.
func (l *Ledger) Prepare(ctx context.Context, o *check.Options, resume bool) {
	o.Checked = func(name string, size int64, good bool) { l.checked(ctx, name, size, good) }
	o.Last = make(map[string]time.Time)
	if l.c == nil {
		return
	}
	if o.Oldest || resume {
		all, err := l.c.Ledger(ctx)
		if err != nil {
			return
		}
		for name, k := range all {
			if !k.Good {
				continue // what was bad is looked at again first
			}
			o.Last[name] = k.Opened
			if !o.ReadData && k.Scrubbed.After(k.Opened) {
				o.Last[name] = k.Scrubbed
			}
		}
	}
	if !l.whole {
		return
	}
	if resume {
		if began, err := l.c.Unfinished(ctx, l.what); err == nil && !began.IsZero() {
			o.Since = began
			l.a.Out.Say("going on with the check that began at %s", began.In(l.a.Env.Zone).Format(time.DateTime))
			return
		}
		l.a.Out.Say("no such check was interrupted: this one begins anew")
	}
	_ = l.c.SetUnfinished(ctx, l.what, l.now()) // it saves time only
}

func (l *Ledger) checked(ctx context.Context, name string, size int64, good bool) {
	if l.c == nil {
		return
	}
	k := catalog.Check{Name: name, Size: size, Scrubbed: l.now(), Good: good}
	if l.what == "read-data" {
		k.Opened = k.Scrubbed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(l.pending, k)
	if len(l.pending) >= maxPending || k.Scrubbed.Sub(l.written) > maxUnsaved {
		_ = l.write(ctx) // it saves time only
	}
}

func (l *Ledger) write(ctx context.Context) error {
	l.written = l.now()
	u, err := l.c.Update(ctx)
	if err != nil {
		return err
	}
	for _, k := range l.pending {
		if err = u.Checked(ctx, k); err != nil {
			break
		}
	}
	l.pending = l.pending[:0]
	_, ended := u.End(err == nil)
	return errors.Join(err, ended)
}

// Close writes what was checked, also where the check was interrupted. finished says that it was not.
func (l *Ledger) Close(ctx context.Context, finished bool) {
	if l.c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.write(ctx)
	if finished && l.whole && err == nil {
		_ = l.c.SetUnfinished(ctx, l.what, time.Time{})
	}
	l.c.Close()
}
