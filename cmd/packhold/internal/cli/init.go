package cli

import (
	"context"
	"encoding/hex"

	"github.com/urfave/cli/v2"

	"packhold/chunk"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/locking"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/audit"
	"packhold/repo/format"
)

func (a *app) initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "make a new repository and enroll this host",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "chunker", Value: chunk.Gear, Usage: "`RULE` that cuts files: gear or rabin"},
			&cli.StringFlag{Name: "chunk-size", Usage: "average `SIZE` of chunks, 64K to 4M; small ones suit databases"},
			&cli.StringFlag{Name: "pack-size", Value: "32M", Usage: "target `SIZE` of pack files, 1M to 240M"},
			&cli.IntFlag{Name: "parity", Value: 2, Usage: "parity shards per pack, 0 to 16: so many bad shards are mended"},
			&cli.StringFlag{Name: "compression", Value: "auto", Usage: "`LEVEL`: auto, off, fastest, default, better or best"},
			&cli.StringFlag{Name: "profile", Value: string(format.Standard), Usage: "`NAME` of the set of algorithms: standard or fips"},
			&cli.StringFlag{Name: "label", Usage: "`TEXT` that says whose passphrase this is"},
		}, locking.Flags()...),
		Action: a.Action(a.initialize),
	}
}

// compressionLevel reads a level as users write it.
func compressionLevel(s string) (string, error) {
	if s == "off" {
		s = "none"
	}
	if _, err := pack.ParseLevel(s); err != nil {
		return "", fail.Usagef("compression", "packhold help init", "%v", err)
	}
	return s, nil
}

func (a *app) initialize(ctx context.Context, v run.Values, _ []string) error {
	o, err := a.initOptions(v)
	if err != nil {
		return err
	}
	settings, err := a.Settings()
	if err != nil {
		return err
	}
	if err := locking.Confirm(ctx, a.Run, v, o.Lock, settings.Repository); err != nil {
		return err
	}
	a.CreateLocked = o.Lock.Length > 0
	st, err := a.Storage(ctx, true, false)
	if err != nil {
		return err
	}
	defer st.Close()
	if _, err := repo.ReadConfig(ctx, st, repo.Options{}); err == nil {
		return repo.ErrExists // said before a passphrase is asked for
	}
	if err := locking.Check(ctx, a.Run, st, o.Lock, settings.Repository); err != nil {
		return err
	}
	p, err := a.NewPassphrase(ctx, "PACKHOLD_PASSPHRASE")
	if err != nil {
		return err
	}
	defer p.Zero()
	o.Passphrase = p.Bytes()
	a.Out.Detail("making keys, which takes a few seconds")
	c, err := admin.Init(ctx, st, o)
	if err != nil {
		return err
	}
	r := a.Folders(c.Repo)
	r.Store = st
	path, err := r.WriteCredential(c, run.CredentialFile)
	if err != nil {
		return err
	}
	r.Credential = c
	if r.Repo, err = repo.Open(ctx, st, repo.Access{Credential: c}, repo.Options{Now: a.Env.Now}); err != nil {
		return err
	}
	if err := r.Record(ctx, audit.Event{Op: "init", Outcome: audit.Success, Object: hex.EncodeToString(c.Repo[:])}); err != nil {
		return err
	}
	id := hex.EncodeToString(c.Repo[:])
	a.Out.Say("repository %s made at %s", id, term.Name(a.Where))
	level, err := locking.Made(ctx, a.Run, r)
	if err != nil {
		return err
	}
	if a.Out.JSON {
		return a.Out.Object("initialized", struct {
			Repository string `json:"repository"`
			ID         string `json:"id"`
			Host       string `json:"host"`
			Credential string `json:"credential"`
			Level      string `json:"level"`
		}{a.Where, id, c.Identity.Host.String(), path, level.String()})
	}
	a.Out.Say("this host may back up without the passphrase: its credential is %s", term.Name(path))
	a.Out.Say("")
	a.Out.Say("WARNING: the passphrase cannot be recovered. Whoever loses it loses every backup in here.")
	a.Out.Say("Keep a second way in on paper, away from this machine:  packhold key export > paper-key.txt")
	return nil
}

func (a *app) initOptions(v run.Values) (o admin.InitOptions, err error) {
	usage := func(err error) (admin.InitOptions, error) {
		return o, fail.Usagef("value", "packhold help init", "%v", err)
	}
	o.Config.Chunker = chunk.DefaultParams()
	if v.IsSet("chunk-size") || v.String("chunker") != chunk.Gear {
		avg := int64(o.Config.Chunker.Avg)
		if v.IsSet("chunk-size") {
			if avg, err = term.ParseSize(v.String("chunk-size")); err != nil {
				return usage(err)
			}
		}
		if o.Config.Chunker, err = chunk.ParamsFor(v.String("chunker"), int(min(avg, 1<<30))); err != nil {
			return usage(err)
		}
	}
	size, err := term.ParseSize(v.String("pack-size"))
	if err != nil {
		return usage(err)
	}
	if size < format.MinPackSize || size > format.MaxPackSize {
		return o, fail.Usagef("value", "packhold help init", "a pack size of %s is not between %s and %s", term.Bytes(size), term.Bytes(format.MinPackSize), term.Bytes(format.MaxPackSize))
	}
	o.PackSize = int(size)
	if o.Parity = v.Int("parity"); o.Parity < 0 || o.Parity > pack.MaxParity {
		return o, fail.Usagef("value", "packhold help init", "%d parity shards are not between 0 and %d", o.Parity, pack.MaxParity)
	}
	if o.Compression, err = compressionLevel(v.String("compression")); err != nil {
		return o, err
	}
	switch o.Config.Profile = format.Profile(v.String("profile")); o.Config.Profile {
	case format.Standard, format.FIPS:
	default:
		return o, fail.Usagef("value", "packhold help init", "profile %s is neither standard nor fips", term.Name(v.String("profile")))
	}
	if o.Lock, err = locking.Policy(v); err != nil {
		return o, err
	}
	o.HostName, o.Now = run.HostName(), a.Env.Now()
	if o.Label = v.String("label"); o.Label == "" {
		o.Label = run.UserName() + "@" + o.HostName
	}
	return o, nil
}
