package cli

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

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/paper"
	"packhold/cmd/packhold/internal/cli/place"
	"packhold/cmd/packhold/internal/cli/secret"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/audit"
)

// keyNeed is what a command has to be able to do.
type keyNeed int

const (
	writerKey keyNeed = iota // this host's credential is enough; without one, the passphrase
	readerKey                // the passphrase
	anyKey                   // the passphrase if there is one, otherwise the credential
)

// repository is an open repository and what this machine keeps beside it.
type repository struct {
	*repo.Repo
	a          *app
	store      *place.Place
	credential *crypt.Credential // nil: this host is not enrolled
	cacheDir   string
	stateDir   string
	configDir  string
	log        *audit.Log        // nil until journal
	passphrase secret.Passphrase // empty unless it was asked for; zeroed by close
}

// storage opens the place of the repository. With create it is made; with stale what killed runs left half written is removed.
func (a *app) storage(ctx context.Context, create, stale bool) (*place.Place, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	a.where = s.Repository.String()
	o := a.placeOptions(s)
	o.Create, o.Stale = create, stale
	p, err := place.Open(ctx, s.Repository, o)
	if !create && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", repo.ErrNoRepository, err)
	}
	if err == nil && a.env.Storage != nil {
		p.Storage = a.env.Storage(p.Storage)
	}
	return p, err
}

// placeOptions are those of every place.
func (a *app) placeOptions(s *config.Settings) place.Options {
	return place.Options{Getenv: a.env.Getenv, User: userName(), Now: a.env.Now, Ask: a.env.Ask, Up: s.Up, Down: s.Down, Memory: filepath.Join(s.Folders.State, "places"), Waiting: func(what string, err error, wait time.Duration) {
		a.out.warn("storage", fmt.Sprintf("%s: %v; tried again in %v", what, err, wait.Round(time.Millisecond)))
	}}
}

// openRepository opens the repository with what need asks for. The caller closes it.
func (a *app) openRepository(ctx context.Context, v values, need keyNeed) (*repository, error) {
	st, err := a.storage(ctx, false, need == writerKey)
	if err != nil {
		return nil, err
	}
	r, err := a.openIn(ctx, v, st, need)
	if err != nil {
		st.Close()
		return nil, err
	}
	return r, nil
}

func (a *app) openIn(ctx context.Context, v values, st *place.Place, need keyNeed) (_ *repository, err error) {
	cfg, err := repo.ReadConfig(ctx, st)
	if err != nil {
		return nil, err
	}
	r := a.folders(cfg.ID)
	r.store = st
	if r.credential, err = readCredential(filepath.Join(r.configDir, credentialFile)); err != nil {
		return nil, err
	}
	access := repo.Access{Credential: r.credential, Hint: v.String("key-hint")}
	if need != writerKey || r.credential == nil {
		p, err := a.passphrase(ctx)
		switch {
		case err == nil:
			r.passphrase = p
			access.Passphrase = p.Bytes()
			if err := a.keyFile(v, &access); err != nil {
				return nil, err
			}
		case need == anyKey && r.credential != nil && errors.Is(err, secret.ErrNone):
		default:
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			r.passphrase.Zero()
		}
	}()
	o := repo.Options{Now: a.env.Now, CachePath: filepath.Join(r.cacheDir, "index"), Found: cfg}
	if err := os.MkdirAll(r.cacheDir, 0o700); err != nil { // it saves time, and the day of a restore must not fail for it
		a.out.warn("cache", err.Error())
		r.cacheDir, o.CachePath = "", ""
	}
	r.Repo, err = repo.Open(ctx, st, access, o)
	return r, err
}

// keyFile reads the exported key that --key-file names.
func (a *app) keyFile(v values, access *repo.Access) error {
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

// folders finds the folders of one repository on this machine.
func (a *app) folders(id crypt.RepoID) *repository {
	name := hex.EncodeToString(id[:])
	f := a.found.Folders
	return &repository{a: a, cacheDir: filepath.Join(f.Cache, name), stateDir: filepath.Join(f.State, name), configDir: filepath.Join(f.Config, name)}
}

// note writes down what has been done. What was found or restored is the user's even where the log cannot take the entry: a storage
// may be read-only, full or damaged. But a log that is not the one this machine remembers is an error, to be told when the result was.
func (r *repository) note(ctx context.Context, e audit.Event) error {
	err := r.record(ctx, e)
	if err != nil && !errors.Is(err, repo.ErrTampered) {
		r.a.out.warn("audit/", "this run could not be written to the log: "+err.Error())
		return nil
	}
	return err
}

// unreadSnapshots is the failure to tell after a list of snapshots that lacks some: nil where all could be read.
func (r *repository) unreadSnapshots() error {
	n, code, word := 0, fail.Lost, "snapshot.damaged"
	for _, p := range r.Problems() {
		if strings.HasPrefix(p.Object, "snapshots/") {
			n++
			if errors.Is(p.Err, repo.ErrTampered) {
				code, word = fail.Tampered, "snapshot.tampered"
			}
		}
	}
	if n == 0 {
		return nil
	}
	return &fail.Error{Code: code, Word: word, Where: r.a.where, Problem: term.Plural(int64(n), "stored snapshot") + " cannot be read",
		Effect: "It is not listed, and may be the latest. Nothing was changed.",
		Next:   "packhold verify; to restore another snapshot name it by its ID: packhold list"}
}

// close tells of objects that were not used, and lets the storage go.
func (r *repository) close() {
	problems := r.Problems()
	if r.log != nil {
		problems = append(problems, r.log.Problems()...)
	}
	for _, p := range problems {
		r.a.out.warn(p.Object, p.Err.Error())
	}
	r.passphrase.Zero()
	r.store.Close()
}

// credentialFile holds the writer credential, in the repository's configuration folder.
const credentialFile = "writer.json"

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

// writeCredential stores a credential for its owner's eyes only, durably: without it unattended backups stop.
func (r *repository) writeCredential(c *crypt.Credential) (string, error) {
	b, err := c.MarshalJSON()
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.configDir, credentialFile)
	return path, writeFile(path, append(b, '\n'))
}

// writeFile replaces a small private file in one step.
func writeFile(path string, data []byte) error {
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

// journal opens this host's audit log. A holder of a passphrase on a machine that is no host signs with the key slot's identity.
func (r *repository) journal(ctx context.Context) (*audit.Log, error) {
	if r.log == nil {
		if r.Keys().Identity == nil {
			return nil, repo.ErrNeedHost
		}
		state := "audit-" + r.Keys().Identity.Host.String() + ".json" // a log is its host's
		l, err := audit.Open(ctx, r.Repo, audit.Options{State: filepath.Join(r.stateDir, state), Now: r.a.env.Now, User: userName(), Tool: program()})
		if err != nil {
			return nil, err
		}
		r.log = l
	}
	return r.log, nil
}

// record appends an entry about what the command did. It comes before anything that changes or reads what is protected is reported as done.
func (r *repository) record(ctx context.Context, e audit.Event) error {
	l, err := r.journal(ctx)
	if err != nil {
		return err
	}
	_, err = l.Append(ctx, e)
	return err
}

// outcomeOf is what the audit log says of an operation that ended with err.
func outcomeOf(err error, problems int) audit.Event {
	switch {
	case err != nil:
		return audit.Event{Outcome: audit.Failed, Reason: err.Error()}
	case problems > 0:
		return audit.Event{Outcome: audit.Partial}
	}
	return audit.Event{Outcome: audit.Success}
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint("uid ", os.Getuid())
}

// hostName is the name of this machine.
func hostName() string {
	if h, err := os.Hostname(); err == nil && h != "" {
		return h
	}
	return "unnamed"
}

// program is the name and version that records carry.
func program() string { return "packhold " + readBuild().Version }
