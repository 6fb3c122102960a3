"""How clients of a conversation behave: one as an Envoy does, one in any way that the protocol allows."""

import abc
import random
from typing import Final

from controlplane.lab.fuzz_client import OTHER_TYPE, BrokenPromiseError, Client, Got
from controlplane.lab.fuzz_world import NAMES
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.kinds import SNAPSHOT_KINDS, Kind

REFUSAL: Final = 0.12
"""How often a response is refused."""


class Behaviour(abc.ABC):
    """What a client does next."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.away = False

    @abc.abstractmethod
    def step(self) -> None:
        """Do one thing."""

    @abc.abstractmethod
    def come_back(self, cache: SnapshotCache, *, afresh: bool) -> None:
        """Open a new stream to *cache*, *afresh* as a process that has just started and has nothing."""

    @abc.abstractmethod
    def settle(self) -> bool:
        """Read and acknowledge one response; return whether there was one."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise unless what the client runs now can serve."""

    def check_end(self) -> None:
        """Raise unless the client, to whom nothing is due any more, runs what is published."""
        client = self.client
        published = client.target
        if published is None:
            return
        for kind, watch in client.watches.items():
            if not watch.opened:
                continue
            wanted = {name: version for name, version in published.wanted[kind].items() if watch.covers(name)}
            for name, version in wanted.items():
                if watch.has.get(name) != version:
                    raise BrokenPromiseError(f"{name} of {kind.name} never arrives")
            more = watch.has.keys() - wanted.keys()
            unsaid = client.variant == "sotw" and not kind.is_full_state  # that something is gone
            if more and not unsaid and client.session.settled:
                raise BrokenPromiseError(f"{', '.join(sorted(more))} of {kind.name} never leaves")
            promised = client.variant == "delta" and client.session.settled
            due = watch.must if promised else watch.must & wanted.keys()
            if due:
                raise BrokenPromiseError(f"the question for {', '.join(sorted(due))} is never answered")

    def check_levels(self) -> None:
        """Raise if something is said to be acknowledged that the client does not run."""
        client = self.client
        published = client.target
        if published is None:
            return
        for kind, level in client.session.levels():
            watch = client.watches[kind]
            if level.acked != published.versions[kind] or not level.acked or watch.pending is not None or watch.must:
                continue
            for name, version in published.wanted[kind].items():
                if watch.covers(name) and name in watch.known and watch.has.get(name) != version:
                    raise BrokenPromiseError(f"{kind.name} is said to be acknowledged, but {name} is not")


class OddBehaviour(Behaviour):
    """Whatever the protocol allows: any names, any order, old nonces, answers late or never."""

    def step(self) -> None:
        client, rng = self.client, self.rng
        kind = rng.choice(SNAPSHOT_KINDS)
        watch = client.watches[kind]
        names = rng.sample(NAMES[kind], rng.randrange(len(NAMES[kind])))
        wildcard = rng.random() < 0.3
        if not watch.opened:
            client.open(kind, names, wildcard=wildcard or (kind.is_full_state and rng.random() < 0.5))
            return
        match rng.randrange(12):
            case 0 | 1:
                stale = [nonce for nonce in ("", watch.answered, "zz") if not watch.pending or nonce != watch.last]
                client.change(kind, names, wildcard=wildcard, nonce=rng.choice(stale))
            case 2 if watch.names:
                client.ask_again(kind, rng.sample(sorted(watch.names), rng.randint(1, len(watch.names))))
            case 3:
                client.say_other(OTHER_TYPE)
            case _:
                self._answer(kind)

    def _answer(self, kind: Kind | None) -> bool:
        client, rng = self.client, self.rng
        for got in client.inbox:
            if kind in (None, got.kind):
                break
        else:
            return False
        client.inbox.remove(got)
        watch = client.watches[got.kind]
        if kind is not None and got.touched and rng.random() < REFUSAL:
            client.apply(got, but=_some(rng, got))
            client.answer(got, words="bad")
            return True
        client.apply(got)
        changes = kind is not None and not watch.wildcard and rng.random() < 0.15
        client.answer(got, names=rng.sample(NAMES[got.kind], rng.randint(1, 3)) if changes else None)
        return True

    def come_back(self, cache: SnapshotCache, *, afresh: bool) -> None:
        client = self.client
        before = {kind: (watch.names, watch.wildcard) for kind, watch in client.watches.items() if watch.opened}
        if afresh:
            for watch in client.watches.values():
                watch.has, watch.claims, watch.version = {}, {}, ""
        client.reconnect(cache)
        for kind, (names, wildcard) in before.items():
            watch = client.watches[kind]
            if client.variant == "sotw" and not watch.version:
                # By its words a client that has never said yes has nothing, whatever it took of what it refused.
                watch.has, watch.claims = {}, {}
            if self.rng.random() < 0.8:
                client.open(kind, names, wildcard=wildcard)
            else:
                watch.has, watch.claims, watch.version = {}, {}, ""

    def settle(self) -> bool:
        return self._answer(None)

    def check(self) -> None:
        """Promise nothing: who asks for half of it may be left with half of it."""


class EnvoyBehaviour(Behaviour):
    """Clusters first, listeners when those are warm, and then whatever these refer to; old listeners drain."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        super().__init__(client, rng)
        self._begin()
        client.open(Kind.CDS, wildcard=True)

    def _begin(self) -> None:
        self.warming: set[str] = set()
        self.hopeless: set[str] = set()
        self.withheld: Got | None = None
        self.active: dict[str, str] = {}
        self.coming: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.draining: set[str] = set()
        self.cut_off: dict[str, str] = {}

    def step(self) -> None:
        dice = self.rng.random()
        if dice < 0.04:
            self.end_drain()
        elif dice < 0.08 and self.withheld is not None:
            self._end_warming()  # it has waited for endpoints for long enough
        elif dice < 0.1:
            self.client.say_other(OTHER_TYPE)
        else:
            self._read(REFUSAL)

    def settle(self) -> bool:
        if self._read(0.0):
            return True
        if self.withheld is not None and self.warming <= self.hopeless:
            self._end_warming()  # after a while, since it has refused what would end it
            return True
        return False

    def come_back(self, cache: SnapshotCache, *, afresh: bool) -> None:
        client = self.client
        before = {kind: watch.names for kind, watch in client.watches.items() if watch.opened}
        if afresh:
            self._begin()
            before = {}
            for watch in client.watches.values():
                watch.has, watch.claims, watch.version = {}, {}, ""
        self.warming.clear()
        self.withheld = None
        client.reconnect(cache)
        client.open(Kind.CDS, wildcard=True)
        for kind in (Kind.EDS, Kind.LDS, Kind.RDS):
            if kind in before:
                client.open(kind, before[kind], wildcard=kind.is_full_state)
        if not afresh:
            self._follow_listeners()
            self._want_endpoints(frozenset())
            if client.watches[Kind.CDS].has and Kind.LDS not in before:
                client.open(Kind.LDS, wildcard=True)

    def check(self) -> None:
        # Old connections of a listener that drains may meet a cluster that is gone: see the limits in README.
        clusters = self.client.watches[Kind.CDS].has
        for name, version in self.client.watches[Kind.RDS].has.items():
            for cluster in self.client.world.leads_to(Kind.RDS, version):
                if cluster in clusters or self.cut_off.get(name) == version:
                    continue
                if name in self.draining:
                    self.cut_off[name] = version
                else:
                    raise BrokenPromiseError(f"the routes {name} lead to {cluster}, which the client was told to drop")

    def check_end(self) -> None:
        if self.withheld is not None:
            raise BrokenPromiseError(f"clusters warm for ever: {', '.join(sorted(self.warming))}")
        super().check_end()
        published = self.client.target
        if published is None:
            return
        levels = dict(self.client.session.levels())
        if {kind: level.acked for kind, level in levels.items()} != {kind: published.versions[kind] for kind in levels}:
            raise BrokenPromiseError(f"it is not seen that the client is in step: {levels}")
        if not self.client.session.settled:
            raise BrokenPromiseError("the client is in step, and the past is kept for it")

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, refusal: float) -> bool:
        if not self.client.inbox:
            return False
        got = self.client.inbox.pop(0)
        refused = bool(got.touched) and self.rng.random() < refusal
        but = _some(self.rng, got) if refused else frozenset()
        before = dict(self.client.watches[got.kind].has)
        self.client.apply(got, but=but)
        words = "bad" if refused else None
        match got.kind:
            case Kind.CDS:
                self._take_clusters(got, before, words)
            case Kind.EDS:
                self.warming -= got.names.keys() - but
                self.hopeless |= self.warming & but
                self.client.answer(got, words=words)
                if self.withheld is not None and not self.warming:
                    self._end_warming()
            case Kind.LDS:
                # Envoy asks for routes before or after it has answered.
                early = self.rng.random() < 0.5
                if not early:
                    self.client.answer(got, words=words)
                self._follow_listeners()
                if early:
                    self.client.answer(got, words=words)
            case Kind.RDS:
                self.client.answer(got, words=words)
                self._follow_listeners()
            case Kind.SDS:  # none is served here
                self.client.answer(got, words=words)
        return True

    def _take_clusters(self, got: Got, before: dict[str, str], words: str | None) -> None:
        has = self.client.watches[Kind.CDS].has
        changed = {name for name, version in has.items() if before.get(name) != version}
        fresh = frozenset(hosts for name in changed for hosts in self.client.world.leads_to(Kind.CDS, has[name]))
        self.warming |= fresh
        self.hopeless.clear()
        self._want_endpoints(fresh)
        if words is not None:
            self.client.answer(got, words=words)
            return
        self.withheld = got
        if not self.warming:
            self._end_warming()

    def _want_endpoints(self, fresh: frozenset[str]) -> None:
        client = self.client
        watch = client.watches[Kind.EDS]
        has = client.watches[Kind.CDS].has
        wanted = frozenset(hosts for version in has.values() for hosts in client.world.leads_to(Kind.CDS, version))
        self.warming &= wanted
        if not watch.opened:
            if wanted:
                client.open(Kind.EDS, wanted)
        elif wanted != watch.names:
            client.change(Kind.EDS, wanted)
        elif fresh and client.variant == "sotw":
            client.ask_again(Kind.EDS, wanted)  # an incremental Envoy does not

    def _end_warming(self) -> None:
        got, self.withheld = self.withheld, None
        self.warming.clear()
        if got is not None:
            self.client.answer(got)
        if not self.client.watches[Kind.LDS].opened:
            self.client.open(Kind.LDS, wildcard=True)

    def end_drain(self) -> None:
        """Let the old listeners go."""
        self.draining.clear()
        self._want_routes()

    # -- listeners -----------------------------------------------------------------------------------------------------

    def _follow_listeners(self) -> None:
        """A new or changed listener comes into use when its routes are there; what it replaces drains."""
        client = self.client
        has = client.watches[Kind.LDS].has
        for name in self.versions.keys() - has.keys():
            del self.versions[name]
            self.coming.pop(name, None)
            if name in self.active:
                self.draining.add(self.active.pop(name))
        for name, version in has.items():
            if self.versions.get(name) != version:
                self.versions[name] = version
                (self.coming[name],) = client.world.leads_to(Kind.LDS, version)
        self._want_routes()

    def _want_routes(self) -> None:
        client = self.client
        watch = client.watches[Kind.RDS]
        for name, routes in tuple(self.coming.items()):
            if routes in watch.has:
                before = self.active.get(name)
                if before is not None:
                    self.draining.add(before)
                self.active[name] = self.coming.pop(name)
        self.draining -= {*self.active.values(), *self.coming.values()}
        wanted = frozenset({*self.active.values(), *self.coming.values(), *self.draining})
        if not watch.opened:
            if wanted and client.watches[Kind.LDS].opened:
                client.open(Kind.RDS, wanted)
        elif wanted != watch.names:
            client.change(Kind.RDS, wanted)


def _some(rng: random.Random, got: Got) -> frozenset[str]:
    touched = sorted(got.touched)
    return frozenset(rng.sample(touched, rng.randint(1, len(touched))))
