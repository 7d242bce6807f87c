package run

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/paper"
	"packhold/cmd/packhold/internal/cli/place"
	"packhold/cmd/packhold/internal/cli/secret"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/audit"
	"packhold/repo/stored"
)

// KeyNeed is what a command has to be able to do.
type KeyNeed int

const (
	WriterKey     KeyNeed = iota // this host's credential is enough; without one, the passphrase
	ReaderKey                    // the passphrase
	AnyKey                       // the passphrase if there is one, otherwise the credential
	ReplicatorKey                // this machine's credential of a replicator
	HolderKey                    // the passphrase, whose holder signs in place of this host
)

// Repository is an open repository and what this machine keeps beside it.
type Repository struct {
	*repo.Repo
	a          *Run
	Store      *place.Place
	Credential *crypt.Credential // nil: this host is not enrolled
	CacheDir   string
	StateDir   string
	ConfigDir  string
	log        *audit.Log        // nil until journal
	Passphrase secret.Passphrase // empty unless it was asked for; zeroed by close
	replicator bool              // its logs are copies
}

// At is the same run over another place, written as --repo is.
func (a *Run) At(place string) *Run {
	b := *a
	b.Flags.Repository, b.Found = place, nil
	return &b
}

// Storage opens the place of the repository. With create it is made; with stale what killed runs left half written is removed.
func (a *Run) Storage(ctx context.Context, create, stale bool) (*place.Place, error) {
	s, err := a.Settings()
	if err != nil {
		return nil, err
	}
	a.Where = s.Repository.String()
	o := a.PlaceOptions(s)
	o.Create, o.Stale, o.CreateLocked = create, stale, a.CreateLocked
	p, err := place.Open(ctx, s.Repository, o)
	if !create && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", repo.ErrNoRepository, err)
	}
	if err == nil && a.Env.Storage != nil {
		p.Storage = a.Env.Storage(p.Storage)
	}
	return p, err
}

// PlaceOptions are those of every place.
func (a *Run) PlaceOptions(s *config.Settings) place.Options {
	return place.Options{Getenv: a.Env.Getenv, User: UserName(), Now: a.Env.Now, Ask: a.Env.Ask, Up: s.Up, Down: s.Down, Memory: filepath.Join(s.Folders.State, "places"),
		Waiting: func(_ string, err error, wait time.Duration) {
			a.Out.Warn("storage", fmt.Sprintf("%v; tried again in %v", err, wait.Round(10*time.Millisecond)))
		},
		Back: func(away time.Duration) {
			a.Out.Warn("storage", fmt.Sprintf("it answers again, after %v", away.Round(time.Second)))
		}}
}

// OpenRepository opens the repository with what need asks for. The caller closes it.
func (a *Run) OpenRepository(ctx context.Context, v Values, need KeyNeed) (*Repository, error) {
	st, err := a.Storage(ctx, false, need == WriterKey)
	if err != nil {
		return nil, err
	}
	r, err := a.OpenIn(ctx, v, st, need)
	if err != nil {
		st.Close()
		return nil, err
	}
	return r, nil
}

// OpenIn opens the repository that is kept in st, which stays the caller's where it fails.
func (a *Run) OpenIn(ctx context.Context, v Values, st *place.Place, need KeyNeed) (_ *Repository, err error) {
	// Nothing that removes, or vouches for what others stored, rests on a listing that served before.
	o := repo.Options{Now: a.Env.Now, Far: st.Far, Flat: st.Flat && need != ReplicatorKey && need != HolderKey}
	cfg, err := repo.ReadConfig(ctx, st, o)
	if err != nil {
		return nil, err
	}
	r := a.Folders(cfg.ID)
	r.Store, r.replicator = st, need == ReplicatorKey
	file := CredentialFile
	if r.replicator { // it knows two places of one repository
		file, r.CacheDir = ReplicatorFile, filepath.Join(r.CacheDir, "replicate-"+r.placeTag())
	}
	if r.Credential, err = r.ReadCredential(file); err != nil {
		return nil, err
	}
	if r.replicator && r.Credential == nil {
		return nil, &fail.Error{Code: fail.Passphrase, Word: "replicate.credential", Problem: "this machine has no credential of a replicator", Where: term.Name(filepath.Join(r.ConfigDir, file)),
			Effect: "Nothing was changed.", Next: "packhold host enroll --replicator, with an administrator's passphrase; the file it makes can be carried to another machine"}
	}
	if need == HolderKey {
		r.Credential, r.CacheDir = nil, filepath.Join(r.CacheDir, "holder")
	}
	access := repo.Access{Credential: r.Credential, Hint: v.String("key-hint")}
	if !r.replicator && (need != WriterKey || r.Credential == nil) {
		p, err := a.Passphrase(ctx)
		switch {
		case err == nil:
			r.Passphrase = p
			access.Passphrase = p.Bytes()
			if err := a.keyFile(v, &access); err != nil {
				return nil, err
			}
		case need == AnyKey && r.Credential != nil && errors.Is(err, secret.ErrNone):
		default:
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			r.Passphrase.Zero()
		}
	}()
	o.CachePath, o.LocksPath, o.Found = filepath.Join(r.CacheDir, "index"), filepath.Join(r.CacheDir, "locks-"+r.placeTag()), cfg
	if err := os.MkdirAll(r.CacheDir, 0o700); err != nil { // it saves time, and the day of a restore must not fail for it
		a.Out.Warn("cache", err.Error())
		r.CacheDir, o.CachePath, o.LocksPath = "", "", ""
	}
	var storage backends.Storage = st
	if a.Cached && r.CacheDir != "" {
		storage = st.Cached(filepath.Join(r.CacheDir, "objects"))
	}
	r.Repo, err = repo.Open(ctx, storage, access, o)
	return r, err
}

// keyFile reads the exported key that --key-file names.
func (a *Run) keyFile(v Values, access *repo.Access) error {
	name := v.String("key-file")
	if name == "" {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if access.Paper, err = paper.Read(f); err != nil {
		return fail.Usagef("key-file", "check the file against the paper", "%s: %v", term.Name(name), err)
	}
	return nil
}

// Folders finds the folders of one repository on this machine.
func (a *Run) Folders(id crypt.RepoID) *Repository {
	name := hex.EncodeToString(id[:])
	f := a.Found.Folders
	return &Repository{a: a, CacheDir: filepath.Join(f.Cache, name), StateDir: filepath.Join(f.State, name), ConfigDir: filepath.Join(f.Config, name)}
}

// Note writes down what has been done. What was found or restored is the user's even where the log cannot take the entry: a storage
// may be read-only, full or damaged. But a log that is not the one this machine remembers is an error, to be told when the result was.
func (r *Repository) Note(ctx context.Context, e audit.Event) error {
	err := r.Record(ctx, e)
	if err != nil && !errors.Is(err, repo.ErrTampered) {
		r.a.Out.Warn("audit/", "this run could not be written to the log: "+err.Error())
		return nil
	}
	return err
}

// UnreadSnapshots is the failure to tell after a list of snapshots that lacks some: nil where all could be read.
func (r *Repository) UnreadSnapshots() error {
	n, code, word := 0, fail.Lost, "snapshot.damaged"
	for _, p := range r.Problems() {
		if errors.Is(p.Err, repo.ErrNotKept) {
			continue // it was read, and an administrator said that it does not count
		}
		if strings.HasPrefix(p.Object, "snapshots/") || strings.HasPrefix(p.Object, "copied/") {
			n++
			if errors.Is(p.Err, repo.ErrTampered) {
				code, word = fail.Tampered, "snapshot.tampered"
			}
		}
	}
	if n == 0 {
		return nil
	}
	return &fail.Error{Code: code, Word: word, Where: r.a.Where, Problem: term.Plural(int64(n), "stored snapshot") + " cannot be read",
		Effect: "It is not listed, and may be the latest. Nothing was changed.",
		Next:   "packhold verify; to restore another snapshot name it by its ID: packhold list"}
}

// Close tells of objects that were not used, and lets the storage go.
func (r *Repository) Close() {
	problems := r.Problems()
	if r.log != nil {
		problems = append(problems, r.log.Problems()...)
	}
	for _, p := range problems {
		r.a.Out.Warn(p.Object, p.Err.Error())
	}
	r.Passphrase.Zero()
	r.Store.Close()
}

// CredentialFile holds the writer credential, in the repository's configuration folder.
const CredentialFile = "writer.json"

// ReplicatorFile holds the credential that replicate takes, beside it.
const ReplicatorFile = "replicator.json"

// ReadCredential reads a credential for this repository, nil if there is none.
func (r *Repository) ReadCredential(file string) (*crypt.Credential, error) {
	return readCredential(filepath.Join(r.ConfigDir, file))
}

// readCredential reads a credential, nil if there is none.
func readCredential(path string) (*crypt.Credential, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := new(crypt.Credential)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, &fail.Error{Code: fail.Passphrase, Word: "key.credential", Problem: "this host's credential cannot be used: " + err.Error(), Where: term.Name(path),
			Effect: "Nothing was changed.", Next: "restore the file, or remove it and run: packhold host enroll", Cause: err}
	}
	return c, nil
}

// WriteCredential stores a credential for its owner's eyes only, durably: without it unattended backups stop.
func (r *Repository) WriteCredential(c *crypt.Credential, file string) (string, error) {
	path := filepath.Join(r.ConfigDir, file)
	return path, WriteCredential(c, path)
}

// WriteCredential is that for any path.
func WriteCredential(c *crypt.Credential, path string) error {
	b, err := c.MarshalJSON()
	if err != nil {
		return err
	}
	return WriteFile(path, append(b, '\n'))
}

// WriteFile replaces a small private file in one step.
func WriteFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// Journal opens this host's audit log. A holder of a passphrase on a machine that is no host signs with the key slot's identity.
func (r *Repository) Journal(ctx context.Context) (*audit.Log, error) {
	if r.log != nil {
		return r.log, nil
	}
	if r.Keys().Identity == nil {
		return nil, repo.ErrNeedHost
	}
	o := audit.Options{Now: r.a.Env.Now, User: UserName(), Tool: Program(), Copied: r.replicator || r.a.copied}
	var err error
	if o.State, err = r.auditState(ctx, &o); err != nil {
		return nil, err
	}
	if r.log, err = audit.Open(ctx, r.Repo, o); err != nil {
		return nil, err
	}
	return r.log, nil
}

// auditState names the file that remembers the head of this host's log in this place: a replica that lags behind is no rollback. A repository that
// was moved is remembered all the same, by what was known of it elsewhere.
func (r *Repository) auditState(ctx context.Context, o *audit.Options) (string, error) {
	prefix := "audit-" + r.Keys().Identity.Host.String() // a log is its host's
	path := filepath.Join(r.StateDir, prefix+"-"+r.placeTag()+".json")
	if _, err := os.Stat(path); err == nil || o.Copied {
		return path, nil
	}
	copies, _, err := stored.List(ctx, r.Store, "copied/")
	if err != nil {
		return "", err
	}
	if o.Copied = len(copies) > 0; o.Copied {
		return path, nil
	}
	var newest fs.FileInfo
	known, err := os.ReadDir(r.StateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, e := range known {
		if i, err := e.Info(); err == nil && strings.HasPrefix(i.Name(), prefix+"-") && strings.HasSuffix(i.Name(), ".json") && (newest == nil || i.ModTime().After(newest.ModTime())) {
			newest = i
		}
	}
	if newest == nil {
		return path, nil
	}
	b, err := os.ReadFile(filepath.Join(r.StateDir, newest.Name()))
	if err != nil {
		return "", err
	}
	return path, WriteFile(path, b)
}

// CatalogPath is the file of this machine's catalog of the repository in this place: packs that are whole here may be damaged in a replica.
func (r *Repository) CatalogPath() string {
	return filepath.Join(r.StateDir, "catalog-"+r.placeTag()+".db")
}

// PinsPath is the file of the newest snapshots that were seen in this place: a replica that lags behind is no rollback.
func (r *Repository) PinsPath() string {
	return filepath.Join(r.StateDir, "pins-"+r.placeTag()+".json")
}

// placeTag tells the place of the repository from others of the same repository.
func (r *Repository) placeTag() string {
	sum := crypt.Sum([]byte(r.a.Where))
	return hex.EncodeToString(sum[:4])
}

// Record appends an entry about what the command did. It comes before anything that changes or reads what is protected is reported as done.
func (r *Repository) Record(ctx context.Context, e audit.Event) error {
	l, err := r.Journal(ctx)
	if err != nil {
		return err
	}
	_, err = l.Append(ctx, e)
	return err
}

// OutcomeOf is what the audit log says of an operation that ended with err.
func OutcomeOf(err error, problems int) audit.Event {
	switch {
	case err != nil:
		return audit.Event{Outcome: audit.Failed, Reason: err.Error()}
	case problems > 0:
		return audit.Event{Outcome: audit.Partial}
	}
	return audit.Event{Outcome: audit.Success}
}

// UserName is who runs the program.
func UserName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint("uid ", os.Getuid())
}

// HostName is the name of this machine.
func HostName() string {
	if h, err := os.Hostname(); err == nil && h != "" {
		return h
	}
	return "unnamed"
}

// Program is the name and version that records carry.
func Program() string { return "packhold " + ReadBuild().Version }

// Where is the place of the repository, as it may be shown.
func (r *Repository) Where() string { return r.a.Where }
