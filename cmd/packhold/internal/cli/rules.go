package cli

import (
	"context"
	"io/fs"
	"os"
	"syscall"

	"packhold/backends"
	"packhold/backends/sftp"
	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/secret"
	"packhold/crypt"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/audit"
	"packhold/repo/backup"
	"packhold/repo/gc"
	"packhold/repo/keyring"
	"packhold/repo/lock"
	"packhold/repo/replicate"
	"packhold/repo/restore"
	"packhold/repo/retain"
	"packhold/repo/writeonce"
)

// rules say how errors of the rooms reach the user. Of several that match, the code with the highest priority counts, and
// among equal codes the first: the specific stand before the general. An error that names its own code, a *fail.Error,
// needs no rule.
func rules() []fail.Rule {
	const (
		sources     = "set PACKHOLD_PASSPHRASE_FILE or PACKHOLD_PASSPHRASE_COMMAND, or run it on a terminal"
		nothing     = "Nothing was changed."
		tryLater    = "look at the storage, then run the command again: it goes on from what is stored"
		notUsed     = "The object is not used."
		unknownForm = "install the newest version of packhold"
	)
	return []fail.Rule{
		{Is: gc.ErrUnsure, Code: fail.Lost, Word: "hold.unread", Effect: "Nothing was forgotten.", Next: "put the object back from a copy of the repository; delete it only if you know that it is no hold"},
		{Is: gc.ErrHeld, Code: fail.Usage, Word: "snapshot.held", Effect: "Nothing was forgotten.", Next: "packhold holds list"},
		{Is: gc.ErrForgotten, Code: fail.Usage, Word: "snapshot.forgotten", Effect: "It is not in the list, and the hold does not bring it back.", Next: "packhold undelete, then hold the new snapshot"},
		{Is: gc.ErrNotOwn, Code: fail.Passphrase, Word: "key.admin", Effect: "Nothing was forgotten.", Next: "run it with an administrator's passphrase"},
		{Is: gc.ErrSwept, Code: fail.Lost, Word: "snapshot.swept", Effect: "There is no new snapshot. Nothing else is lost.", Next: "look for another copy: packhold list, or a replica"},
		{Is: retain.ErrEmpty, Code: fail.Usage, Word: "policy.empty", Effect: "Nothing was forgotten.", Next: "check the rules with --dry-run; if all may go, say --allow-empty"},
		{Is: retain.ErrNoPolicy, Code: fail.Usage, Word: "policy.none", Effect: "Nothing was forgotten.", Next: "give a rule of what to keep, such as: packhold forget --keep-daily 7"},
		{Is: retain.ErrClosed, Code: fail.Passphrase, Word: "key.read", Effect: "Nothing was forgotten.", Next: sources + "; --group-by host needs none"},
		{Is: audit.ErrRolledBack, Code: fail.Tampered, Word: "trust.rolledback", Effect: "Nothing newer than the older copy is used. Nothing was changed.",
			Next: "find out who put an older copy there; if it was you, remove audit-*.json and pins-*.json below the state folder that packhold config show names"},
		{Is: sftp.ErrUnknownHost, Code: fail.Unreachable, Word: "host.unknown", Effect: nothing, Next: "compare the fingerprint with the server's; if it is the same, add the line to known_hosts"},
		{Is: sftp.ErrHostKeyChanged, Code: fail.Unreachable, Word: "host.changed", Effect: nothing, Next: "find out why: the server was installed anew, or somebody is in between"},
		{Is: sftp.ErrProxy, Code: fail.Usage, Word: "host.proxy", Effect: nothing, Next: "set command in the configuration's storage to an ssh that goes that way"},
		{Is: repo.ErrTampered, Code: fail.Tampered, Word: "trust.tampered", Effect: notUsed,
			Next: "find out who could write to the storage, then: packhold verify"},
		{Is: repo.ErrForeign, Code: fail.Tampered, Word: "trust.foreign", Effect: nothing, Next: "check the path of the repository; a repository that was swapped must not be used"},
		{Is: repo.ErrNoConfig, Code: fail.Lost, Word: "damage.config", Effect: nothing, Next: "put config back from a copy of the repository; every other file is needed too"},
		{Is: repo.ErrDamaged, Code: fail.Lost, Word: "damage.lost", Effect: "What needs the object cannot be done; everything else can. Nothing was changed.", Next: "packhold verify --read-data"},
		{Is: repo.ErrNoRepository, Code: fail.NoRepository, Word: "repository.none", Effect: nothing, Next: "check the path, or make a repository: packhold init"},
		{Is: repo.ErrExists, Code: fail.Exists, Word: "repository.exists", Effect: nothing, Next: "use it as it is (packhold list), or name another place with --repo"},
		{Is: keyring.ErrNoKey, Code: fail.Passphrase, Word: "key.none", Effect: nothing, Next: "restore with an exported key: --key-file FILE"},
		{Is: repo.ErrNeedRead, Code: fail.Passphrase, Word: "key.read", Effect: nothing, Next: sources},
		{Is: repo.ErrNeedAdmin, Code: fail.Passphrase, Word: "key.admin", Effect: nothing, Next: "run it with an administrator's passphrase"},
		{Is: replicate.ErrLost, Code: fail.Lost, Word: "replicate.lost", Effect: "No snapshot was added to the copy; what was copied stays.",
			Next: "packhold verify --read-data at the source, which notes what is lost, then back up and replicate again"},
		{Is: gc.ErrBusy, Code: fail.Busy, Word: "prune.busy", Effect: nothing, Next: "wait until it has ended, or, if nothing runs any more: packhold prune --anyway"},
		{Is: gc.ErrUnsafe, Code: fail.Lost, Word: "prune.unsafe", Effect: "Nothing that may be needed was removed.", Next: "packhold verify"},
		{Is: gc.ErrRole, Code: fail.Passphrase, Word: "prune.role", Effect: nothing, Next: "run it with an administrator's passphrase"},
		{Is: replicate.ErrBase, Code: fail.Usage, Word: "import.base", Effect: "No snapshot was added; what was copied stays.",
			Next: "import the earlier sets first, or make a whole one: packhold export --full --to DIR"},
		{Is: replicate.ErrRole, Code: fail.Passphrase, Word: "replicate.credential", Effect: nothing, Next: "packhold host enroll --replicator, with an administrator's passphrase"},
		{Is: repo.ErrRevoked, Code: fail.Passphrase, Word: "host.revoked", Effect: nothing,
			Next: "ask an administrator why; to take the machine in again as another host: packhold host enroll --replace"},
		{Is: repo.ErrNeedHost, Code: fail.Passphrase, Word: "host.none", Effect: nothing, Next: "packhold host enroll, with an administrator's passphrase"},
		{Is: repo.ErrFenced, Code: fail.Busy, Word: "session.fenced", Effect: "There is no snapshot of this run. Nothing committed is lost.", Next: "run the backup again"},
		{Is: admin.ErrChanged, Code: fail.Busy, Word: "settings.changed", Effect: "What was reported by the other one is done.", Next: "run the command again"},
		{Is: admin.ErrSelf, Code: fail.Usage, Word: "host.self", Effect: nothing, Next: "run it with another administrator's passphrase"},
		{Is: repo.ErrLastKey, Code: fail.Usage, Word: "key.last", Effect: nothing, Next: "add another one first: packhold key add"},
		{Is: repo.ErrNoSnapshot, Code: fail.Usage, Word: "snapshot.none", Effect: nothing, Next: "packhold list"},
		{Is: repo.ErrAmbiguous, Code: fail.Usage, Word: "snapshot.ambiguous", Effect: nothing, Next: "name it by its ID: packhold list"},
		{Is: repo.ErrStorage, Code: fail.Unreachable, Word: "storage.failed", Effect: "Nothing committed is lost.", Next: tryLater},
		{Is: restore.ErrForbidden, Code: fail.Usage, Word: "target.forbidden", Effect: nothing, Next: "choose another destination"},
		{Is: restore.ErrUnsafe, Code: fail.UnsafePaths, Word: "restore.unsafe", Next: "restore into an empty folder that only you can write to"},
		{Is: restore.ErrFull, Code: fail.NoSpace, Word: "target.full", Effect: "What was complete stays; the list says what is missing.", Next: "make room, then run the same command again: what is there is not fetched again"},
		{Is: restore.ErrNoPath, Code: fail.Usage, Word: "path.none", Effect: nothing, Next: "name it as it was backed up, from / on"},
		{Is: restore.ErrNoSource, Code: fail.Lost, Word: "snapshot.empty", Effect: nothing, Next: "choose another snapshot: packhold list"},
		{Is: backup.ErrEmpty, Code: fail.Unclassified, Word: "source.empty", Effect: "There is no snapshot. Nothing was changed.", Next: "run alone what should write to packhold, and see what it prints"},
		{Is: backup.ErrNoSource, Code: fail.Unclassified, Word: "source.none", Effect: "There is no snapshot. Nothing was changed.", Next: "check the paths and permissions of the sources"},
		{Is: pack.ErrSelfCheck, Code: fail.Unclassified, Word: "self.check", Effect: "There is no snapshot. Nothing damaged was stored.", Next: "test the memory of this machine"},
		{Is: crypt.ErrSignature, Code: fail.Tampered, Word: "trust.signature", Effect: notUsed,
			Next: "find out who could write to the storage, then: packhold verify"},
		{Is: crypt.ErrOpen, Code: fail.Lost, Word: "damage.sealed", Effect: notUsed, Next: "packhold verify"},

		{Is: crypt.ErrPassphrase, Code: fail.Passphrase, Word: "key.passphrase", Effect: nothing,
			Next: "try again with the right passphrase; without it the data cannot be read"},
		{Is: secret.ErrNone, Code: fail.Passphrase, Word: "key.none", Effect: nothing, Next: sources},
		{Is: secret.ErrSource, Code: fail.Passphrase, Word: "key.source", Effect: nothing,
			Next: "make the source deliver the passphrase, or unset the variable"},
		{Is: secret.ErrAmbiguous, Code: fail.Usage, Word: "key.ambiguous", Effect: nothing, Next: "unset all but one of them"},
		{Is: secret.ErrShort, Code: fail.Usage, Word: "key.short", Effect: nothing,
			Next: "take a longer one: five random words are easy to keep"},
		{Is: secret.ErrMismatch, Code: fail.Usage, Word: "key.mismatch", Effect: nothing, Next: "run the command again"},

		{Is: crypt.ErrPolicy, Code: fail.Policy, Word: "key.policy", Effect: nothing, Next: unknownForm + "; if it is the newest, distrust the repository"},
		{Is: crypt.ErrFormat, Code: fail.Policy, Word: "format.unknown", Effect: nothing, Next: unknownForm},

		{Is: backends.ErrNoSpace, Code: fail.NoSpace, Word: "storage.full", Effect: "Nothing committed is lost; the command stopped before its end.",
			Next: "make room, or free some with packhold forget and packhold prune, then run the command again: it goes on from what is stored"},
		{Is: syscall.ENOSPC, Code: fail.NoSpace, Word: "target.full", Effect: "The command stopped before its end.",
			Next: "make room, in a repository with packhold forget and packhold prune, then run the command again"},
		{Is: syscall.EDQUOT, Code: fail.NoSpace, Word: "target.quota", Effect: "The command stopped before its end.",
			Next: "make room or raise the quota, in a repository with packhold forget and packhold prune, then run the command again"},
		{Is: backends.ErrGone, Code: fail.Unreachable, Word: "storage.gone", Effect: "Nothing committed is lost.", Next: tryLater},
		{Is: syscall.EIO, Code: fail.Unreachable, Word: "storage.io", Effect: "Nothing committed is lost.", Next: tryLater},
		{Is: context.DeadlineExceeded, Code: fail.Unreachable, Word: "storage.timeout", Effect: "Nothing committed is lost.", Next: tryLater},
		{Is: os.ErrDeadlineExceeded, Code: fail.Unreachable, Word: "storage.timeout", Effect: "Nothing committed is lost.", Next: tryLater},

		{Is: config.ErrNoHome, Code: fail.Usage, Word: "config.home", Effect: nothing,
			Next: "set HOME, or PACKHOLD_CONFIG_DIR, PACKHOLD_CACHE_DIR, PACKHOLD_STATE_DIR and PACKHOLD_REPOSITORY"},
		{Is: writeonce.ErrNoLock, Code: fail.Usage, Word: "lock.unsupported", Effect: "Nothing committed is lost.", Next: "back up to a place that can lock files (docs/storage.md says which), and copy from there: packhold replicate"},
		{Is: backends.ErrUnsupported, Code: fail.Usage, Word: "storage.unsupported", Effect: nothing, Next: "leave the option out, or move the repository"},

		{Is: backends.ErrClock, Code: fail.Clock, Word: "clock.skew", Effect: "Nothing was stored under a wrong date.",
			Next: "set this machine's clock (timedatectl, chronyc tracking) or the server's, then run the command again"},
		{Is: lock.ErrNone, Code: fail.Usage, Word: "lock.none", Effect: nothing, Next: "packhold lock set --immutable 30d makes it write-once"},
		{Is: admin.ErrShorter, Code: fail.Usage, Word: "lock.shorter", Effect: nothing, Next: "packhold lock status says for how long it is now"},

		{Is: backends.ErrKept, Code: fail.Denied, Word: "access.immutable", Effect: "It stays. Nothing committed is lost.", Next: "wait until then, then run the command again; packhold lock status shows all dates"},
		{Is: fs.ErrPermission, Code: fail.Denied, Word: "access.denied", Next: "run it as a user who may, or change the permissions"},
		{Is: fs.ErrExist, Code: fail.Exists, Word: "target.exists", Effect: "What is there was kept.", Next: "choose another place, or move away what is there"},
		{Is: fs.ErrNotExist, Code: fail.Usage, Word: "path.missing", Next: "check the path"},
	}
}
