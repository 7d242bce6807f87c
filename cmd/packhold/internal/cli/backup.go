package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/catalogs"
	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/pins"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/backup"
	"packhold/repo/retain"
	"packhold/repo/snapshot"
)

func (a *app) backupCommand() *cli.Command {
	return &cli.Command{
		Name: "backup", Usage: "back up files into the repository", ArgsUsage: "[-- COMMAND [ARG...]]",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "source", Aliases: []string{"s"}, Usage: "`PATH` to back up; may be repeated", TakesFile: true},
			&cli.StringFlag{Name: "type", Usage: "`TYPE`: full reads everything, incremental compares with the last backup, differential with the last full one (default incremental)"},
			&cli.StringFlag{Name: "job", Usage: "take sources and options of the job `NAME` in the configuration"},
			&cli.StringSliceFlag{Name: "exclude", Aliases: []string{"e"}, Usage: "leave out what matches `PATTERN`; may be repeated"},
			&cli.StringSliceFlag{Name: "exclude-file", Usage: "`FILE` of patterns, one a line, # begins a comment", TakesFile: true},
			&cli.BoolFlag{Name: "exclude-caches", Usage: "leave out the contents of folders with a CACHEDIR.TAG"},
			&cli.StringFlag{Name: "exclude-larger-than", Usage: "leave out files larger than `SIZE`"},
			&cli.BoolFlag{Name: "one-file-system", Aliases: []string{"x"}, Usage: "do not enter other file systems"},
			&cli.StringSliceFlag{Name: "tag", Usage: "`TAG` of the snapshot; may be repeated"},
			&cli.BoolFlag{Name: "stdin", Usage: "back up what comes from standard input"},
			&cli.BoolFlag{Name: "stdin-from-command", Usage: "back up what COMMAND prints; if it fails there is no snapshot"},
			&cli.StringFlag{Name: "stdin-filename", Value: "stdin", Usage: "`NAME` of the file that --stdin becomes"},
			&cli.StringFlag{Name: "compression", Usage: "`LEVEL`: auto, off, fastest, default, better or best (default: as init set)"},
			&cli.StringFlag{Name: "retention", Usage: "retention `CLASS`, such as 30d or 7y: what write-once keeps for how long, and packs that do not mix (default: the job's)"},
			&cli.BoolFlag{Name: "no-validate", Usage: "do not make sure that the storage has what was meant"},
			&cli.BoolFlag{Name: "no-cache", Usage: "keep no copy of the tree on this machine; the next incremental backup reads every file"},
			&cli.BoolFlag{Name: "with-atime", Usage: "record access times"},
			&cli.BoolFlag{Name: "read-special", Usage: "save devices and FIFOs as files, with what reading them to their end gives"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be done, and change nothing"},
			run.KeyHintFlag(), run.KeyFileFlag(),
		},
		Action: a.Action(a.backup),
	}
}

func (a *app) backup(ctx context.Context, v run.Values, args []string) error {
	s, err := a.Settings()
	if err != nil {
		return err
	}
	o, err := a.backupOptions(v, s, args)
	if err != nil {
		return err
	}
	a.Cached = true
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	command, err := a.stream(ctx, v, args, o)
	if err != nil {
		return err
	}
	defer command.stop()
	o.Avoid = []string{s.Repository.Path, s.Folders.Cache}
	if !v.Bool("no-cache") {
		o.CacheDir = r.CacheDir
	}
	if !o.DryRun {
		if o.Journal, err = r.Journal(ctx); err != nil {
			return err
		}
	}
	c := new(progress.Counter)
	p := &backupProgress{c: c}
	o.Progress = p
	start := a.Env.Now()
	var res *backup.Result
	err = a.Watch("backing up", c, func() error {
		if a.Out.Screen.Terminal && !a.Out.Quiet && o.Stdin == nil {
			scanning, stop := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { defer close(done); p.scan(scanning, o.Sources) }()
			defer func() { stop(); <-done }()
		}
		var err error
		res, err = backup.Run(ctx, r.Repo, *o)
		return err
	})
	took := a.Env.Now().Sub(start)
	if err != nil {
		if !o.DryRun && ctx.Err() == nil {
			e := run.OutcomeOf(err, 0)
			e.Op, e.Job, e.Duration = "backup", o.Job, took
			_ = r.Record(ctx, e) // the failure that is reported is the backup's
		}
		return err
	}
	var unlogged error
	if res.Snapshot != nil {
		if o.CacheDir != "" {
			if err := r.KeepBody(res.Snapshot); err != nil {
				a.Out.Warn("cache", err.Error())
			}
		}
		e := run.OutcomeOf(nil, len(res.Skipped))
		e.Op, e.Job, e.Snapshot, e.Bytes, e.Duration = "backup", o.Job, res.Snapshot.ID().String(), res.Stats.BytesRead, took
		noted, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // the snapshot is there, whoever wants to stop now
		unlogged = r.Note(noted, e)
		pins.Committed(a.Run, r, res.Snapshot)
		catalogs.Committed(noted, a.Run, r, res.Snapshot)
		cancel()
	}
	return errors.Join(a.backupSummary(o, res, took), unlogged)
}

// backupOptions puts together what the flags, the job and the configuration file say.
func (a *app) backupOptions(v run.Values, s *config.Settings, args []string) (*backup.Options, error) {
	job := &config.Job{}
	if name := v.String("job"); name != "" {
		found, ok := s.File.Job(name)
		if ok {
			job = found
			if len(job.Source) == 0 {
				return nil, fail.Usagef("job", "packhold config show", "job %s has no source", term.Name(name))
			}
		} // otherwise the name is only recorded
	}
	o := &backup.Options{Job: v.String("job"), DryRun: v.Bool("dry-run"), ATime: v.Bool("with-atime"), ReadSpecial: v.Bool("read-special"), Hostname: run.HostName(), User: run.UserName(),
		Program: run.Program(), Now: a.Env.Now, Tags: append(append(append([]string{}, s.File.Tags...), job.Tags...), v.StringSlice("tag")...)}
	sources := v.StringSlice("source")
	if len(sources) == 0 {
		sources = job.Source
	}
	for _, p := range sources {
		abs, err := filepath.Abs(p)
		if err != nil || p == "" {
			return nil, fail.Usagef("source", "packhold help backup", "%s is no source", term.Name(p))
		}
		o.Sources = append(o.Sources, abs)
	}
	stream := v.Bool("stdin") || v.Bool("stdin-from-command")
	switch {
	case stream && len(o.Sources) > 0:
		return nil, fail.Usagef("source", "packhold help backup", "--stdin and --source exclude each other")
	case !stream && len(o.Sources) == 0:
		return nil, fail.Usagef("source", "packhold backup --source PATH", "nothing to back up is named")
	case !v.Bool("stdin-from-command") && len(args) > 0:
		return nil, fail.Usagef("argument", "packhold backup --source "+term.Name(args[0]), "found %s, which belongs to no flag", term.Name(args[0]))
	}
	kind := v.String("type")
	if kind == "" {
		kind = job.Type
	}
	switch kind {
	case "full":
		o.Type = snapshot.Full
	case "", "incremental":
		o.Type = snapshot.Incremental
	case "differential":
		o.Type = snapshot.Differential
	default:
		return nil, fail.Usagef("type", "packhold help backup", "%s is none of full, incremental, differential", term.Name(kind))
	}
	if n := v.String("exclude-larger-than"); n != "" {
		size, err := term.ParseSize(n)
		if err != nil {
			return nil, fail.Usagef("size", "packhold help backup", "%v", err)
		}
		o.LargerThan = size
	}
	o.ExcludeCaches = v.Bool("exclude-caches") || s.File.ExcludeCaches
	o.OneFileSystem = v.Bool("one-file-system") || s.File.OneFileSystem
	if job.ExcludeCaches != nil && !v.IsSet("exclude-caches") {
		o.ExcludeCaches = *job.ExcludeCaches
	}
	if job.OneFileSystem != nil && !v.IsSet("one-file-system") {
		o.OneFileSystem = *job.OneFileSystem
	}
	for _, level := range []string{v.String("compression"), job.Compression, s.File.Compression} {
		if level != "" {
			l, err := compressionLevel(level)
			if err != nil {
				return nil, err
			}
			o.Session.Compression = l
			break
		}
	}
	o.Session.NoValidate = v.Bool("no-validate")
	if o.Session.Retention = job.Retention; v.IsSet("retention") {
		o.Session.Retention = v.String("retention")
		if _, err := retain.ParsePeriod(o.Session.Retention); err != nil {
			return nil, fail.Usagef("value", "packhold help backup", "--retention: %v", err)
		}
	}
	var err error
	o.Exclude, err = excludes(v, s.File, job)
	return o, err
}

// excludes collects the patterns of flags, job, file, and the files they name.
func excludes(v run.Values, file *config.File, job *config.Job) (*backup.Excludes, error) {
	patterns := append(append(append([]string{}, file.Exclude...), job.Exclude...), v.StringSlice("exclude")...)
	for _, name := range append(append(append([]string{}, file.ExcludeFile...), job.ExcludeFile...), v.StringSlice("exclude-file")...) {
		f, err := os.Open(name)
		if err != nil {
			return nil, fail.Usagef("exclude-file", "check the path", "the exclude file cannot be read: %v", err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if l := lines.Text(); strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "#") {
				patterns = append(patterns, l)
			}
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return nil, fail.Usagef("exclude-file", "check the file", "the exclude file cannot be read: %v", err)
		}
	}
	if len(patterns) == 0 {
		return nil, nil
	}
	x, err := backup.NewExcludes(patterns)
	if err != nil {
		return nil, fail.Usagef("pattern", "packhold help backup", "%v", err)
	}
	return x, nil
}

// streamCommand is a command whose output is backed up; nil is none.
type streamCommand struct {
	io.Reader
	cmd  *exec.Cmd
	wait func() error // for its end, once
}

// Read returns the command's output, and its failure in place of the end.
func (s *streamCommand) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if n == 0 && err != nil {
		if werr := s.wait(); werr != nil {
			return 0, &fail.Error{Code: fail.Unclassified, Word: "source.command", Problem: "the command failed: " + werr.Error(), Where: term.Name(s.cmd.Path),
				Effect: "There is no snapshot. Nothing was changed.", Next: "run the command alone, and mend it", Cause: werr}
		}
	}
	return n, err
}

func (s *streamCommand) stop() {
	if s != nil {
		s.cmd.Process.Kill() // which ends nothing that has ended
		s.wait()
	}
}

// stream sets up the backup of standard input or of a command's output.
func (a *app) stream(ctx context.Context, v run.Values, args []string, o *backup.Options) (*streamCommand, error) {
	if !v.Bool("stdin") && !v.Bool("stdin-from-command") {
		return nil, nil
	}
	o.StdinName = strings.TrimPrefix(filepath.ToSlash(v.String("stdin-filename")), "/")
	if err := snapshot.CheckName(o.StdinName); err != nil {
		return nil, fail.Usagef("stdin-filename", "packhold help backup", "%v", err)
	}
	if !v.Bool("stdin-from-command") {
		o.Stdin = a.Env.Stdin
		return nil, nil
	}
	if len(args) == 0 {
		return nil, fail.Usagef("command", "packhold backup --stdin-from-command -- COMMAND", "no command is named")
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = a.Env.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fail.Usagef("command", "check the command", "the command cannot be run: %v", err)
	}
	s := &streamCommand{out, cmd, sync.OnceValue(cmd.Wait)}
	o.Stdin = s
	return s, nil
}

// backupProgress counts for the screen.
type backupProgress struct {
	c        *progress.Counter
	expected atomic.Bool
}

func (p *backupProgress) Expect(files, bytes int64) {
	p.expected.Store(true)
	p.c.Total(files, bytes)
}
func (p *backupProgress) Start(path string)                 { p.c.File(path) }
func (p *backupProgress) Done(files, bytes, _ int64)        { p.c.Done(files, bytes) }
func (p *backupProgress) Skipped(path string, reason error) { p.c.Warn(path, reason.Error()) }

// scan adds up what a first backup has to do, beside it.
func (p *backupProgress) scan(ctx context.Context, sources []string) {
	var files, bytes int64
	for _, s := range sources {
		filepath.WalkDir(s, func(_ string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil || p.expected.Load() {
				return fs.SkipAll
			}
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if i, err := d.Info(); err == nil {
				files++
				bytes += i.Size()
			}
			return nil
		})
	}
	if ctx.Err() == nil && !p.expected.Load() {
		p.c.Total(files, bytes)
	}
}

// backupSummary tells what was done, and makes skipped items exit code 3.
func (a *app) backupSummary(o *backup.Options, res *backup.Result, took time.Duration) error {
	st := res.Stats
	id, number := "", uint64(0)
	if res.Snapshot != nil {
		id, number = res.Snapshot.ID().String(), res.Snapshot.Number
	}
	if res.CacheErr != nil {
		a.Out.Warn("cache", res.CacheErr.Error())
	}
	if res.Fallback > 0 {
		a.Out.Warn("compression", fmt.Sprintf("%d blobs did not come back from the encoder and were stored uncompressed: suspect the memory of this machine", res.Fallback))
	}
	if a.Out.JSON {
		err := a.Out.Object("summary", struct {
			DryRun      bool    `json:"dry_run,omitempty"`
			Snapshot    string  `json:"snapshot_id,omitempty"`
			Number      uint64  `json:"number,omitempty"`
			Files       uint64  `json:"files"`
			Dirs        uint64  `json:"dirs"`
			Others      uint64  `json:"others"`
			New         uint64  `json:"files_new"`
			Changed     uint64  `json:"files_changed"`
			Unmodified  uint64  `json:"files_unmodified"`
			Skipped     uint64  `json:"skipped"`
			BytesTotal  uint64  `json:"bytes_total"`
			BytesRead   uint64  `json:"bytes_read"`
			BytesNew    uint64  `json:"bytes_new"`
			BytesStored uint64  `json:"bytes_stored"`
			Blobs       uint64  `json:"blobs_new"`
			Adopted     uint64  `json:"packs_adopted"`
			Validated   bool    `json:"validated"`
			Seconds     float64 `json:"seconds"`
		}{o.DryRun, id, number, st.Files, st.Dirs, st.Others, st.New, st.Changed, st.Unmodified, st.Skipped, st.BytesTotal, st.BytesRead,
			st.BytesNew, st.BytesStored, st.Blobs, res.Stored.Adopted, !o.Session.NoValidate && !o.DryRun, took.Seconds()})
		if err != nil {
			return err
		}
	} else {
		verb := "saved"
		if o.DryRun {
			verb = "would be saved"
		}
		a.Out.Say("files: %s new, %s changed, %s unmodified (%s, %s)", term.Count(int64(st.New)), term.Count(int64(st.Changed)), term.Count(int64(st.Unmodified)),
			term.Plural(int64(st.Files), "file"), term.Bytes(int64(st.BytesTotal)))
		if o.DryRun {
			a.Out.Say("to read: %s; nothing was changed", term.Bytes(int64(st.BytesRead)))
		} else {
			a.Out.Say("bytes: %s read, %s new, %s stored; dedup %s, compression %s", term.Bytes(int64(st.BytesRead)), term.Bytes(int64(st.BytesNew)), term.Bytes(int64(st.BytesStored)),
				term.Ratio(int64(st.BytesTotal), int64(st.BytesNew)), term.Ratio(int64(st.BytesNew), int64(st.BytesStored)))
			if res.Stored.Adopted > 0 {
				a.Out.Say("found again: %s of an interrupted backup", term.Plural(int64(res.Stored.Adopted), "pack"))
			}
			checked := ""
			if n := res.Stored.Packs; n > 0 && !o.Session.NoValidate {
				how := "read back and compared"
				if res.Snapshot.Validation == snapshot.Confirmed {
					how = "confirmed by the checksums that the storage reports"
				}
				checked = fmt.Sprintf("; %s stored, %s", term.Plural(int64(n), "pack"), how)
			}
			a.Out.Say("snapshot %d (%s) %s in %s%s", number, id, verb, term.Duration(took), checked)
		}
	}
	if st.Skipped == 0 {
		return nil
	}
	return &fail.Error{Code: fail.Skipped, Word: "source.skipped", Problem: term.Plural(int64(st.Skipped), "item") + " of the source could not be saved",
		Where: term.Names(o.Sources), Effect: "Everything else is saved; the skipped items are listed above and in the snapshot.",
		Next: "mend what the list says, then run the backup again", Cause: errors.New("skipped items")}
}
