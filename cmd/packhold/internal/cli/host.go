package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/rekeying"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo/admin"
	"packhold/repo/audit"
)

func (a *app) hostCommand() *cli.Command {
	return &cli.Command{
		Name: "host", Usage: "manage the hosts that back up here",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list the hosts and key holders", Flags: []cli.Flag{run.KeyHintFlag(), run.KeyFileFlag()}, Action: a.Action(a.hostList)},
			{Name: "enroll", Usage: "make this machine a host: from then on it backs up without the passphrase", Flags: []cli.Flag{
				&cli.StringFlag{Name: "name", Usage: "`NAME` of the host (default: the machine's)"},
				&cli.BoolFlag{Name: "replicator", Usage: "not to back up, but to copy the repository: packhold replicate"},
				&cli.StringFlag{Name: "domain", Usage: "rely only on what hosts of the same `DOMAIN` stored, a new one or one there is; strict: on no other host (default: on all that have no domain)"},
				&cli.BoolFlag{Name: "operator", Usage: "also to hold snapshots without a passphrase: packhold holds"},
				&cli.BoolFlag{Name: "replace", Usage: "also where this machine has a credential already"},
				&cli.StringFlag{Name: "output", Usage: "write the credential to `FILE`, for another machine that never sees the passphrase", TakesFile: true},
				run.KeyHintFlag(), run.KeyFileFlag(),
			}, Action: a.Action(a.hostEnroll)},
			rekeying.HostRevoke(a.Run),
		},
	}
}

// roleNames lists roles for people.
func roleNames(r crypt.Role) string {
	var out []string
	for _, n := range []struct {
		role crypt.Role
		name string
	}{{crypt.RoleWriter, "writer"}, {crypt.RoleReader, "reader"}, {crypt.RoleAdmin, "admin"}, {crypt.RolePrune, "prune"}, {crypt.RoleOperator, "operator"}} {
		if r&n.role != 0 {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, ",")
}

// host is a certified host, and the snapshots it committed.
type host struct {
	*crypt.Certificate
	snapshots int
	bytes     uint64    // of their files together
	last      time.Time // when the last one began
}

// hosts lists the hosts by name.
func hosts(ctx context.Context, r *run.Repository) ([]*host, error) {
	snaps, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	var all []*host
	byID := make(map[crypt.HostID]*host)
	for _, c := range r.Trust().Certificates() {
		h := &host{Certificate: c}
		all, byID[c.Host] = append(all, h), h
	}
	for _, s := range snaps {
		h := byID[s.Host] // whose certificate the signature was checked against
		h.snapshots++
		h.bytes += s.Stats.BytesTotal
		if t := s.StartTime(); t.After(h.last) {
			h.last = t
		}
	}
	slices.SortFunc(all, func(x, y *host) int { return strings.Compare(x.Name+x.Host.String(), y.Name+y.Host.String()) })
	return all, nil
}

func (a *app) hostList(ctx context.Context, v run.Values, _ []string) error {
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	hosts, err := hosts(ctx, r)
	if err != nil {
		return err
	}
	t := &term.Table{Header: []string{"ID", "ROLES", "DOMAIN", "SINCE", "SNAPSHOTS", "LAST", "NAME"}, Right: []int{4}}
	for _, h := range hosts {
		if a.Out.JSON {
			line := struct {
				ID        string     `json:"id"`
				Name      string     `json:"name"`
				Raw       string     `json:"name_raw,omitempty"`
				Roles     string     `json:"roles"`
				Domain    string     `json:"domain,omitempty"`
				DomainRaw string     `json:"domain_raw,omitempty"`
				Since     time.Time  `json:"since"`
				Snapshots int        `json:"snapshots"`
				Last      *time.Time `json:"last,omitempty"`
				This      bool       `json:"this"`
				Revoked   bool       `json:"revoked"`
			}{ID: h.Host.String(), Roles: roleNames(h.Roles), Since: time.Unix(h.Before, 0).UTC(), Snapshots: h.snapshots, Revoked: r.Trust().Revoked(h.Host),
				This: r.Credential != nil && h.Host == r.Credential.Identity.Host}
			line.Name, line.Raw = term.RawName(h.Name)
			line.Domain, line.DomainRaw = term.RawName(h.Domain)
			if h.snapshots > 0 {
				last := h.last.UTC()
				line.Last = &last
			}
			if err := a.Out.Object("host", line); err != nil {
				return err
			}
			continue
		}
		last := "-"
		if h.snapshots > 0 {
			last = term.Time(h.last, a.Env.Zone)
		}
		roles := roleNames(h.Roles)
		if r.Trust().Revoked(h.Host) {
			roles = "revoked"
		}
		domain := "-"
		if h.Domain != "" {
			domain = term.Name(h.Domain)
		}
		t.Rows = append(t.Rows, []string{h.Host.String(), roles, domain, term.Time(time.Unix(h.Before, 0), a.Env.Zone), term.Count(int64(h.snapshots)), last, term.Name(h.Name)})
	}
	if a.Out.JSON {
		return nil
	}
	return a.Out.Table(t)
}

func (a *app) hostEnroll(ctx context.Context, v run.Values, _ []string) error {
	r, err := a.OpenRepository(ctx, v, run.ReaderKey)
	if err != nil {
		return err
	}
	defer r.Close()
	file, roles, there := run.CredentialFile, crypt.RoleWriter, r.Credential
	if v.Bool("replicator") {
		file, roles = run.ReplicatorFile, crypt.RolePrune // who may speak for the packs of all hosts
		if there, err = r.ReadCredential(file); err != nil {
			return err
		}
	}
	domain := v.String("domain")
	switch {
	case v.Bool("replicator") && (v.Bool("operator") || domain != ""):
		return fail.Usagef("flag", "packhold help host enroll", "--replicator goes with neither --operator nor --domain")
	case !utf8.ValidString(domain) || len(domain) > 1024:
		return fail.Usagef("domain", "packhold help host enroll", "--domain is not a text of at most 1,024 bytes")
	case v.Bool("operator"):
		roles |= crypt.RoleOperator
	}
	output := v.String("output")
	if output != "" {
		there = nil // it is not for this machine
		if v.String("name") == "" {
			return fail.Usagef("flag", "packhold help host enroll", "--output is for another machine: name it by --name")
		}
		if _, err := os.Lstat(output); !errors.Is(err, fs.ErrNotExist) {
			return &fail.Error{Code: fail.Exists, Word: "target.exists", Where: term.Name(output), Problem: "there is a file of that name", Effect: "Nothing was changed.",
				Next: "name another file, or remove it", Cause: err}
		}
	}
	if there != nil && !v.Bool("replace") {
		return &fail.Error{Code: fail.Exists, Word: "host.enrolled", Problem: "this machine is enrolled already, as host " + there.Identity.Host.String(),
			Effect: "Nothing was changed.", Next: "use it as it is; --replace makes a new host of it"}
	}
	name := v.String("name")
	if name == "" {
		name = run.HostName()
	}
	c, err := admin.EnrollHostIn(ctx, r.Repo, name, roles, domain)
	if err != nil {
		return err
	}
	path := output
	if output == "" {
		path, err = r.WriteCredential(c, file)
	} else {
		err = run.WriteCredential(c, output)
	}
	if err != nil {
		return err
	}
	if output == "" && file == run.CredentialFile {
		r.AdoptCredential(c)
	}
	if err := r.Record(ctx, audit.Event{Op: "host enroll", Outcome: audit.Success, Object: c.Identity.Host.String()}); err != nil {
		return err
	}
	if a.Out.JSON {
		return a.Out.Object("host_enrolled", struct {
			ID         string `json:"id"`
			Credential string `json:"credential"`
		}{c.Identity.Host.String(), path})
	}
	a.Out.Say("host %v enrolled as %s; its credential is %s", c.Identity.Host, term.Name(name), term.Name(path))
	return nil
}
