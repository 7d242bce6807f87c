#!/usr/bin/env python3
"""Exhaustive model of commit, prune, replication, forget, undelete and holds. docs/protocol.md says in words what it shows.

There is one blob, 'a', and every pack holds it. Processes are writers, prune runs, replicators, forgetters, undeleters and
holders; at the source of a replication a prune and a forgetter of its own. The model walks every interleaving of their single
storage calls, every crash (a process never moves again) and every suspension (its lease is judged dead at any moment), with
retries after a fence, later runs that take over an unfinished set, packs that no index names, and two clones of a machine that share a session.

What must hold in every state:
  - while a snapshot is in the list, some stored pack that no final names is indexed, and its record is there;
  - so it is while a snapshot is held that was not forgotten when its hold was told to be good;
  - who was told that its commit succeeded finds its own record, in the list unless it was forgotten after that.

usage: prune_protocol.py check [more]          run the tables below: seconds, with more a minute
       prune_protocol.py [key=value ...]       explore one scope; break=STEP leaves out a step, trace=1 shows how it goes wrong
"""
import sys
from collections import namedtuple

NONE = frozenset()

DEFAULTS = dict(
    writers=0, prunes=0, replicators=0, forgets=0, undeletes=0, holds=0,
    packs=0,      # packs in the index at the start
    orphans=0,    # packs that no index names at the start
    old=0,        # 1: a committed snapshot exists at the start
    forgotten=0,  # 1: and it is forgotten already
    twin=0,       # 1: writers 0 and 1 are clones of one machine
    repack=0,     # 1: a prune that finds the blob alive copies it to a new pack first
    parent=0,     # 1: writers lean on the tree of the snapshot of the start, whose file is unchanged
    src_prune=0,  # 1: the source of the replication is pruned meanwhile
    src_forget=0, # 1: and its snapshot forgotten
    same=1,       # 1: the packs at the start have the names of the source's packs
    rounds=1,     # how often a replicator reads the source again before it gives up
    bound=3_000_000, trace=0)

# What must hold: (scope, in words). The scopes of MORE take a minute together.
SCOPES = [
    ("writers=1 prunes=1 packs=2 old=1", "a writer and prune"),
    ("writers=2 prunes=1 packs=1", "two writers"),
    ("writers=2 prunes=1 packs=1 twin=1", "two clones"),
    ("writers=1 prunes=2 packs=1", "a writer and two prune runs"),
    ("replicators=1 prunes=1", "a replicator into an empty repository"),
    ("replicators=1 prunes=1 packs=1 repack=1 old=1", "the pack is in the index of the destination"),
    ("replicators=1 prunes=1 orphans=1", "the pack is at the destination, and no index names it"),
    ("replicators=2 prunes=1", "two replicators"),
    ("replicators=1 prunes=1 src_prune=1", "the source is pruned meanwhile"),
    ("replicators=1 prunes=1 packs=1 src_prune=1 src_forget=1", "and its snapshot forgotten"),
    ("replicators=1 writers=1 prunes=1 packs=1", "a replicator and a local backup"),
    ("replicators=1 prunes=1 packs=1 forgets=1", "the copy is forgotten at the destination"),
    ("writers=1 prunes=1 packs=1 old=1 forgets=1 parent=1", "the parent is forgotten while its child is made"),
    ("writers=2 prunes=1 packs=1 twin=1 forgets=1", "a commit is forgotten before its clone commits"),
    ("undeletes=1 prunes=1 packs=1 old=1 forgets=1", "undelete while the blobs are swept"),
    ("undeletes=2 prunes=1 packs=1 old=1 forgotten=1", "two undeletes"),
    ("undeletes=1 writers=1 prunes=1 packs=1 old=1 forgotten=1 parent=1", "undelete and a backup with that parent"),
    ("holds=1 forgets=1 prunes=2 packs=1 old=1", "a hold and a forget at once"),
]
MORE = [
    ("writers=1 prunes=2 packs=2 old=1", "a writer and two prune runs, with a duplicate"),
    ("writers=1 prunes=2 orphans=1", "with a pack of a crashed session"),
    ("writers=1 prunes=2 packs=1 old=1 repack=1", "prune runs that copy"),
    ("replicators=1 prunes=2 packs=1", "a replicator and two prune runs"),
    ("replicators=1 prunes=2 orphans=1", "the pack is at the destination, and no index names it"),
    ("replicators=2 prunes=1 packs=1", "two replicators, the pack is at the destination"),
    ("replicators=2 prunes=1 orphans=1", "and no index names it"),
    ("writers=1 prunes=2 packs=1 old=1 forgets=1 parent=1", "the parent is forgotten while its child is made, two prune runs"),
    ("undeletes=1 prunes=2 packs=1 old=1 forgets=1 forgotten=1", "undelete and two prune runs"),
    ("holds=1 forgets=1 prunes=2 packs=2 old=1", "a hold, a forget and two prune runs, with a duplicate"),
]

# Which steps are needed: (step left out, scope in which that goes wrong, in words).
BREAKS = [
    ("fence", "writers=1 prunes=2 packs=1", "prune does not void the sessions it judges dead"),
    ("exclusive", "writers=1 prunes=2 packs=1", "the commit overwrites"),
    ("recheck", "writers=1 prunes=2 packs=1", "prune does not look a second time"),
    ("newonly", "writers=1 prunes=2 packs=2 old=1", "the second look takes new snapshots only"),
    ("lateleases", "writers=1 prunes=2 packs=1", "leases are listed before the set is published"),
    ("condfirst", "writers=1 prunes=2 packs=1", "a session reads condemned sets before its lease is there"),
    ("forgetfinals", "writers=1 prunes=2 packs=1", "finals do not bind once their packs are deleted"),
    ("trustmemory", "writers=1 prunes=2 packs=1", "a fenced writer trusts what it remembers"),
    ("takeover", "writers=1 prunes=2 packs=1", "who takes over an unfinished set does not list the leases again"),
    ("samename", "replicators=1 prunes=2 packs=1", "a replicator stores a pack under the name that is condemned"),
    ("leancondemned", "replicators=1 prunes=1 packs=1", "a replicator leans on a condemned pack, since it is stored"),
    ("replfirst", "replicators=1 prunes=1 packs=1", "a replicator looks at the destination before its lease is there"),
    ("rest", "replicators=1 prunes=1 src_prune=1", "a replicator goes on with the rest when a pack of the source is gone"),
    ("indexfirst", "replicators=1 prunes=1 src_prune=1", "a replicator reads the source's index before its finals"),
    ("forgottenonce", "replicators=1 src_prune=1 src_forget=1", "a replicator reads only once what the source has forgotten"),
    ("norecord", "replicators=1 prunes=1", "a replicator commits before the record is stored"),
    ("sweeprecords", "replicators=2 prunes=1", "prune removes records under copied/ that no commit names"),
    ("replmemory", "replicators=1 prunes=2", "a fenced replicator trusts what it remembers"),
    ("copiedlive", "replicators=1 prunes=1 packs=1", "prune walks snapshots only, no copied records"),
    ("trustparent", "writers=1 prunes=1 packs=1 old=1 forgets=1 parent=1", "what the parent has is not looked up in the session's own view"),
    ("removesnapshot", "writers=2 prunes=1 packs=1 twin=1 forgets=1", "forget removes the snapshot's object, whose name is then free"),
    ("undeletelean", "undeletes=1 prunes=2 packs=1 old=1 forgotten=1", "undelete leans on a condemned pack, since it can be read"),
    ("unforget", "undeletes=1 prunes=1 packs=1 old=1 forgotten=1", "undelete removes forgotten/ in place of a new commit"),
    ("holdblind", "holds=1 forgets=1 prunes=1 packs=1 old=1", "prune does not ask for holds"),
    ("holdorder", "holds=1 forgets=1 prunes=2 packs=2 old=1", "prune reads holds before it reads what is forgotten"),
    ("holdsure", "holds=1 forgets=1 prunes=1 packs=1 old=1", "who holds does not look whether it was forgotten"),
]

# What is stored. cond: (id, packs, leases or None, final or None). commits: (session, kind, who), kind snap, copied or void.
World = namedtuple("World", "packs index cond leases commits forgotten holds records src_packs src_index src_finals src_forgotten")

OLD, HOME = "old", "home"  # the snapshots of the start: the repository's own, and the source's


class Model:
    def __init__(self, options, without=""):
        self.o = dict(DEFAULTS, **options)
        self.without = without
        o = self.o
        names = ["s%d" % i if o["same"] else "p%d" % i for i in range(o["packs"] + o["orphans"])]
        self.world = World(
            packs=frozenset(names), index=frozenset(names[:o["packs"]]), cond=NONE, leases=NONE,
            commits=frozenset([(OLD, "snap", None)]) if o["old"] else NONE,
            forgotten=frozenset([OLD]) if o["forgotten"] else NONE, holds=NONE, records=NONE,
            src_packs=frozenset(["s0"]), src_index=frozenset(["s0"]), src_finals=NONE, src_forgotten=NONE)
        self.procs = []
        self.kinds = []
        for kind, n, start in (("writer", o["writers"], Writer()), ("prune", o["prunes"], Prune()), ("replicator", o["replicators"], Replicator()),
                               ("forgetter", o["forgets"], Simple()), ("undeleter", o["undeletes"], Writer()), ("holder", o["holds"], Simple()),
                               ("src_prune", o["src_prune"], Simple()), ("src_forgetter", o["src_forget"], Simple())):
            for i in range(n):
                self.kinds.append((getattr(self, kind), i))
                self.procs.append(start)

    # What any process can tell from what is stored.

    def final(self, w):
        """Packs that are gone for ever."""
        if self.without == "forgetfinals":
            return NONE
        return frozenset(p for _, _, _, f in w.cond if f for p in f)

    def absent(self, w, but=None):
        """Packs that do not count: a set condemns what it names, with its final only what that names."""
        r = set()
        for c, k, _, f in w.cond:
            if c != but and not (f is not None and self.without == "forgetfinals"):
                r |= k if f is None else f
        return frozenset(r)

    def snapshots(self, w):
        """Sessions whose snapshot is stored; a copied one is named as at home."""
        r = set()
        for s, kind, _ in w.commits:
            if kind == "snap":
                r.add(s)
            elif kind == "copied" and self.without != "copiedlive":
                r.add(HOME)
        return frozenset(r)

    def create(self, w, session, kind, who):
        """Exclusive create of snapshots/<session>. None if the name is taken."""
        taken = next((k for s, k, _ in w.commits if s == session), None)
        if taken is None or self.without == "exclusive" and taken == "void" and kind != "void":
            return w._replace(commits=frozenset(c for c in w.commits if c[0] != session) | {(session, kind, who)})
        return None

    # Processes. Each yields (world, own state) for every step it can take. One step is at most one storage call that matters.

    def session_name(self, kind, i, attempt):
        if kind == "w" and self.o["twin"] and attempt == 0 and i in (0, 1):
            return "w0.0"
        return "%s%d.%d" % (kind, i, attempt)

    def writer(self, w, m, i, kind="w"):
        s = self.session_name(kind, i, m.attempt)
        unchanged = self.without == "trustparent" and kind == "w" and self.o["parent"]
        order = ("condemned", "lease") if self.without == "condfirst" else ("lease", "condemned")
        if m.at == "start":
            if unchanged and OLD in self.snapshots(w) - w.forgotten:
                yield w, m._replace(at=order[0], lean="parent's")
            yield w, m._replace(at=order[0])
        elif m.at == "lease":
            yield w._replace(leases=w.leases | {s}), m._replace(at="condemned" if order[0] == "lease" else "index")
        elif m.at == "condemned":
            yield w, m._replace(at="index" if order[0] == "lease" else "lease", seen=self.absent(w))
        elif m.at == "index":
            known = sorted(w.index - m.seen)
            orphans = sorted(w.packs - w.index - m.seen)  # of a crashed session: may be taken over
            if unchanged and m.lean == "parent's" or self.without == "trustmemory" and m.attempt and m.lean:
                yield w, m._replace(at="commit")
            elif known:
                yield w, m._replace(at="commit", lean=known[0])
            elif kind == "u":
                # The blob must come from a pack that is condemned and not yet gone.
                readable = sorted(w.packs & w.index - self.final(w))
                if readable and self.without == "undeletelean":
                    yield w, m._replace(at="commit", lean=readable[0])
                elif readable:
                    yield w, m._replace(at="store", lean="u%d.%d" % (i, m.attempt))
                else:
                    yield w, m._replace(at="stopped")
            else:
                yield w, m._replace(at="store", lean="n%d.%d" % (i, m.attempt))
                if orphans:
                    yield w, m._replace(at="segment", lean=orphans[0])
        elif m.at == "store":
            yield w._replace(packs=w.packs | {m.lean}), m._replace(at="segment")
        elif m.at == "segment":
            yield w._replace(index=w.index | {m.lean}), m._replace(at="commit")
        elif m.at == "commit":
            yield from self.commit(w, m, s, "snap", (kind, i))

    def commit(self, w, m, s, kind, who):
        done = self.create(w, s, kind, who)
        if done is not None:
            yield done, m._replace(at="unlisted" if kind == "snap" and s in w.forgotten else "done", seen=NONE)
        elif m.attempt == 0:
            yield w, type(m)()._replace(attempt=1, lean=m.lean)
        else:
            yield w, m._replace(at="stopped")

    def undeleter(self, w, m, i):
        """A new session with the tree of a forgotten snapshot; what its view lacks it copies out of condemned packs."""
        if m.at == "start" and OLD not in w.forgotten:
            return
        if m.at == "commit" and self.without == "unforget":
            yield w._replace(forgotten=w.forgotten - {OLD}), m._replace(at="stopped")
            return
        yield from self.writer(w, m, i, "u")

    def forgetter(self, w, m, i):
        if m.at == "start":
            for s in self.snapshots(w) - w.forgotten:
                if s not in w.holds:  # whether it is held is read before; the hold may come in between
                    yield w, m._replace(at="forget", what=s)
        elif m.at == "forget":
            commits = w.commits
            if self.without == "removesnapshot":
                commits = frozenset(c for c in commits if c[0] != m.what)
            yield w._replace(forgotten=w.forgotten | {m.what}, commits=commits), m._replace(at="done")

    def holder(self, w, m, i):
        if m.at == "start":
            yield w._replace(holds=w.holds | {OLD}), m._replace(at="look")
        elif m.at == "look":  # only now is the hold told to be good
            good = OLD not in w.forgotten or self.without == "holdsure"
            yield w, m._replace(at="done" if good else "stopped", what=OLD)

    def replicator(self, w, m, i):
        s = self.session_name("r", i, m.attempt)
        looks_first = self.without == "replfirst"
        if m.at == "start":
            yield w, m._replace(at="condemned" if looks_first else "lease")
        elif m.at == "lease":
            yield w._replace(leases=w.leases | {s}), m._replace(at="source" if looks_first else "condemned")
        elif m.at == "condemned":
            yield w, m._replace(at="index", seen=self.absent(w))
        elif m.at == "index":
            yield w, m._replace(at="lease" if looks_first else "source", view=w.index & w.packs - m.seen, listed=w.packs)
        # The source: snapshots, finals, index, and again what is forgotten.
        elif m.at == "source":
            want = HOME not in w.src_forgotten
            after = "src index" if self.without == "indexfirst" else "src finals"
            yield w, m._replace(at=after if want else "stopped", todo=NONE, gone=NONE)
        elif m.at == "src finals":
            if self.without == "indexfirst":
                yield w, m._replace(at="src forgotten", todo=m.todo - w.src_finals)
            else:
                yield w, m._replace(at="src index", gone=w.src_finals)
        elif m.at == "src index":
            after = "src finals" if self.without == "indexfirst" else "src forgotten"
            yield w, m._replace(at=after, todo=w.src_index - m.gone, gone=NONE)
        elif m.at == "src forgotten":
            still = HOME not in w.src_forgotten or self.without == "forgottenonce"
            yield w, m._replace(at="pack" if still else "stopped")
        elif m.at == "pack":
            if self.without == "replmemory" and m.attempt and m.lean:
                yield w, m._replace(at="record")
                return
            if not m.todo:
                yield w, m._replace(at="segment")
                return
            p = min(m.todo)
            name = self.free_name(p, m.seen)
            rest = m._replace(todo=m.todo - {p})
            if name in m.view or self.without == "leancondemned" and name != p and p in w.packs & w.index:
                yield w, rest                                       # in the session's view: leant on
            elif name in m.listed:
                yield w, rest._replace(mine=m.mine | {name})        # stored, in no index: taken over
                yield from self.fetch(w, m, p, name)                # or stored again: the same bytes
            else:
                yield from self.fetch(w, m, p, name)
        elif m.at == "store":
            yield w._replace(packs=w.packs | {m.lean}), m._replace(at="pack", mine=m.mine | {m.lean})
        elif m.at == "segment":
            lean = m.lean or "nothing"
            yield w._replace(index=w.index | m.mine), m._replace(at="record", mine=NONE, lean=lean)
        elif m.at == "record":
            if self.without == "norecord":
                yield w, m._replace(at="commit")
            elif HOME in w.records:
                yield w, m._replace(at="commit")
            else:
                yield w._replace(records=w.records | {HOME}), m._replace(at="commit")
        elif m.at == "commit":
            yield from self.commit(w, m, s, "copied", ("r", i))

    def fetch(self, w, m, p, name):
        """Read a pack of the source. It may be gone by now."""
        if p in w.src_packs:
            yield w, m._replace(at="store", todo=m.todo - {p}, lean=name)
        elif self.without == "rest":
            yield w, m._replace(todo=m.todo - {p})
        elif m.round < self.o["rounds"]:
            yield w, m._replace(at="source", todo=NONE, round=m.round + 1)
        else:
            yield w, m._replace(at="stopped")

    def free_name(self, p, seen):
        """The first incarnation of p that is neither condemned nor final, as the session saw it."""
        n, name = 0, p
        while name in seen and self.without != "samename":
            n += 1
            name = "%s.%d" % (p, n)
        return name

    def src_forgetter(self, w, m, i):
        if m.at == "start":
            yield w._replace(src_forgotten=w.src_forgotten | {HOME}), m._replace(at="done")

    def src_prune(self, w, m, i):
        """The source's own prune, whose safety there is not the question: it copies what is alive, then finals and deletes s0."""
        if m.at == "start":
            yield w, m._replace(at="copy" if HOME not in w.src_forgotten else "final")
        elif m.at == "copy":
            yield w._replace(src_packs=w.src_packs | {"s1"}), m._replace(at="index")
        elif m.at == "index":
            yield w._replace(src_index=w.src_index | {"s1"}), m._replace(at="final")
        elif m.at == "final":
            yield w._replace(src_finals=w.src_finals | {"s0"}), m._replace(at="delete")
        elif m.at == "delete":
            yield w._replace(src_packs=w.src_packs - {"s0"}), m._replace(at="compact")
        elif m.at == "compact":
            yield w._replace(src_index=w.src_index - {"s0"}), m._replace(at="done")

    def used(self, w):
        """Whether a blob is in use, as one look at snapshots, forgotten and holds says."""
        s = self.snapshots(w)
        live = s - w.forgotten
        if self.without != "holdblind":
            live |= s & w.holds
        return bool(live)

    def prune(self, w, m, i):
        def put(**fields):
            e = next(x for x in w.cond if x[0] == m.set)
            new = dict(zip(("id", "k", "l", "f"), e), **fields)
            return w._replace(cond=w.cond - {e} | {(new["id"], new["k"], new["l"], new["f"])})

        def of_set(n):
            return next(x for x in w.cond if x[0] == m.set)[n]
        open_ = frozenset(s for s in w.leases if not any(s == c[0] for c in w.commits))
        # Mark.
        if m.at == "start":
            yield w, m._replace(at="snapshots", set="c%d" % i, others=self.absent(w))
            for c, k, l, f in w.cond:  # take over an unfinished set
                if f is None:
                    recorded = l if l is not None else (NONE if self.without == "takeover" else open_)
                    yield w, Prune()._replace(at="fence", set=c, k=k, leases=recorded)
        elif m.at == "snapshots":
            yield w, m._replace(at="plan", used=self.used(w))
        elif m.at == "plan":
            x = sorted((w.index | w.packs) - self.final(w))
            if m.used and self.o["repack"]:
                if set(x) & w.packs - m.others:  # something safe to read from
                    yield w, m._replace(at="copy", k=frozenset(x), others=NONE)
                else:
                    yield w, m._replace(at="end")
                return
            k = frozenset(x)
            if m.used:
                safe = [p for p in x if p not in m.others and p in w.index and p in w.packs]
                k -= {safe[0] if i == 0 else safe[-1]} if safe else k
            yield w, m._replace(at="condemn" if k else "end", k=k, others=NONE)
        elif m.at == "copy":
            yield w._replace(packs=w.packs | {"x%d" % i}), m._replace(at="copied")
        elif m.at == "copied":
            yield w._replace(index=w.index | {"x%d" % i}), m._replace(at="condemn")
        elif m.at == "condemn":
            if self.without == "lateleases":
                yield w, m._replace(at="leases", leases=open_)
            else:
                yield w._replace(cond=w.cond | {(m.set, m.k, None, None)}), m._replace(at="leases")
        elif m.at == "leases":
            if self.without == "lateleases":
                yield w._replace(cond=w.cond | {(m.set, m.k, m.leases, None)}), m._replace(at="fence")
            elif of_set(2) is None:
                yield put(l=open_), m._replace(at="fence", leases=open_)
            else:
                yield w, m._replace(at="fence", leases=of_set(2))
        # Sweep.
        elif m.at == "fence":
            todo = [s for s in m.leases if not any(s == c[0] for c in w.commits)]
            if not todo:
                yield w, m._replace(at="second", leases=NONE, used=self.used(w) if self.without == "newonly" else False)
            for s in todo:
                if self.without == "fence":
                    yield w, m._replace(leases=m.leases - {s})
                else:
                    yield self.create(w, s, "void", ("p", i)), m
        elif m.at == "second":  # condemned sets and finals, snapshots, forgotten, holds, index
            if self.without == "recheck":
                yield w, m._replace(at="final")
            else:
                yield w, m._replace(at="second snapshots", others=self.absent(w, m.set))
        elif m.at == "second snapshots":
            found = self.snapshots(w)
            if self.without == "newonly" and m.used:
                found = NONE
            held = found & w.holds if self.without == "holdorder" else NONE
            yield w, m._replace(at="second forgotten", found=found, held=held)
        elif m.at == "second forgotten":
            yield w, m._replace(at="second holds", forgotten=w.forgotten)
        elif m.at == "second holds":
            held = {"holdblind": NONE, "holdorder": m.held}.get(self.without, w.holds)
            live = m.found - (m.forgotten - held)
            yield w, m._replace(at="second index", used=bool(live), found=NONE, forgotten=NONE, held=NONE)
        elif m.at == "second index":
            copies = w.index & w.packs - self.final(w) - m.k - m.others
            yield w, m._replace(at="final", k=m.k if not m.used or copies else NONE, others=NONE)
        elif m.at == "final":  # the decision: exclusive create of condemned/<id>.final
            f = of_set(3)
            if f is None:
                yield put(f=m.k), m._replace(at="delete")
            else:
                yield w, m._replace(at="delete", k=f)
        elif m.at == "delete":
            after = "records" if self.without == "sweeprecords" else "end"
            yield w._replace(packs=w.packs - m.k), Prune()._replace(at=after)
        elif m.at == "records":
            if HOME not in self.snapshots(w):
                yield w, m._replace(at="remove records")
        elif m.at == "remove records":
            yield w._replace(records=NONE), m._replace(at="end")

    # What must hold.

    def wrong(self, w, procs):
        listed = set()
        for s, kind, _ in w.commits:
            if kind == "snap":
                listed.add(s)
            elif kind == "copied":
                listed.add(HOME)
                if HOME not in w.records:
                    return "a committed copy has no record"
        whole = bool((w.packs & w.index) - self.final(w))
        if listed - w.forgotten and not whole:
            return "a committed blob is lost"
        for (kind, i), m in zip(self.kinds, procs):
            name = kind.__name__
            if name == "holder" and m.at == "done" and not whole:
                return "a held blob is lost"
            if m.at == "done" and name in ("writer", "undeleter", "replicator"):
                letter, what = {"writer": ("w", "snap"), "undeleter": ("u", "snap"), "replicator": ("r", "copied")}[name]
                s = self.session_name(letter, i, m.attempt)
                if (s, what, (letter, i)) not in w.commits and s not in w.forgotten:
                    return "a reported commit is void"
            if m.at == "unlisted":
                return "a commit was reported of a snapshot that was forgotten before"
        return None

    def steps(self, state):
        w, procs = state
        for j, (kind, i) in enumerate(self.kinds):
            for nw, nm in kind(w, procs[j], i):
                yield nw, procs[:j] + (nm,) + procs[j + 1:]


class Writer(namedtuple("Writer", "at attempt seen lean", defaults=("start", 0, NONE, ""))):
    __slots__ = ()


class Replicator(namedtuple("Replicator", "at attempt seen view listed todo gone mine lean round", defaults=("start", 0, NONE, NONE, NONE, NONE, NONE, NONE, "", 0))):
    __slots__ = ()


class Prune(namedtuple("Prune", "at set used k leases others found forgotten held", defaults=("start", "", False, NONE, NONE, NONE, NONE, NONE, NONE))):
    __slots__ = ()


class Simple(namedtuple("Simple", "at what", defaults=("start", ""))):
    __slots__ = ()


def explore(options, without=""):
    """Returns the number of states, what went wrong or None, and the way there."""
    m = Model(options, without)
    first = (m.world, tuple(m.procs))
    seen, stack, came = {first}, [first], {}
    while stack:
        state = stack.pop()
        bad = m.wrong(*state)
        if bad:
            way = [state]
            while way[-1] in came:
                way.append(came[way[-1]])
            return len(seen), bad, way[::-1]
        if len(seen) >= m.o["bound"]:
            return len(seen), None, None
        for nxt in m.steps(state):
            if nxt not in seen:
                seen.add(nxt)
                stack.append(nxt)
                if m.o["trace"]:
                    came[nxt] = state
    return len(seen), None, []


def parse(words):
    options, without = {}, ""
    for word in words:
        key, _, value = word.partition("=")
        if key == "break":
            if value not in [b for b, _, _ in BREAKS]:
                sys.exit("no such step: %s" % value)
            without = value
        elif key not in DEFAULTS:
            sys.exit(__doc__)
        else:
            options[key] = int(value)
    return options, without


def show(way):
    before = None
    for w, procs in way:
        line = ["%s=%s" % (f, sorted(map(str, v))) for f, v in zip(w._fields, w) if not before or v != getattr(before[0], f)]
        who = [j for j in range(len(procs)) if before and procs[j] != before[1][j]]
        print("  ", ", ".join("%s%d %s" % (type(procs[j]).__name__, j, procs[j].at) for j in who) or "start", "|", " ".join(line))
        before = (w, procs)


def check(scopes):
    failed = 0
    for words, what in scopes:
        n, bad, way = explore(parse(words.split())[0])
        ok = bad is None and way is not None
        failed += not ok
        print("%-75s %9d states  %s  (%s)" % (words, n, "holds" if ok else bad or "not explored to the end", what))
    for step, words, what in BREAKS:
        n, bad, _ = explore(parse(words.split())[0], step)
        failed += bad is None
        print("%-75s %9d states  %s  (%s)" % (words + " break=" + step, n, "NOT NEEDED" if bad is None else "breaks: " + bad, what))
    sys.exit(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(SCOPES + (MORE if sys.argv[2:] == ["more"] else []))
    options, without = parse(sys.argv[1:])
    n, bad, way = explore(options, without)
    print("%d states, %s" % (n, "VIOLATION: " + bad if bad else "no violation" if way is not None else "no violation so far: the bound is reached"))
    if bad and options.get("trace"):
        show(way)
    sys.exit(bad is not None)
