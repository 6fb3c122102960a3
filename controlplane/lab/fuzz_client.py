"""What a client may expect of a session, kept as the protocol says it and not as the session does it.

A `Watch` knows one kind of one client from both sides: what the server was told (*known*, *asked*), and what the client
has (*has*). Every response is held against it before the client sees it.
"""

import abc
import dataclasses
import random
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from envoy.config.core.v3 import base_pb2

from controlplane.errors import ControlPlaneError
from controlplane.lab.fuzz_world import Published, World
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.channel import Acked, Ignored, Nacked, Outgoing, Reaction, Stale, Subscribed
from controlplane.xds.kinds import SNAPSHOT_KINDS, Kind, ProtocolError
from controlplane.xds.responses import Served
from controlplane.xds.session import Session

STAR: Final = "*"

CHANGED: Final = "changed"
"""No version: what was refused is followed by something else."""

OTHER_TYPE: Final = "type.googleapis.com/envoy.service.runtime.v3.Runtime"


class BrokenPromiseError(ControlPlaneError):
    """A session did what it must not do; the text says what."""


@dataclasses.dataclass(frozen=True, slots=True)
class Got:
    """A response as it came. *names* are the versions of its resources."""

    kind: Kind
    version: str
    nonce: str
    names: Mapping[str, str]
    removed: frozenset[str]

    @property
    def touched(self) -> frozenset[str]:
        """Everything that it says something about."""
        return self.removed.union(self.names)

    def __str__(self) -> str:
        names = ", ".join(f"{name}={version[:4]}" for name, version in self.names.items())
        removed = f", without {', '.join(sorted(self.removed))}" if self.removed else ""
        return f"{self.kind.name} #{self.nonce} of {self.version[:4] or '-'}: {names or 'nothing'}{removed}"


@dataclasses.dataclass(slots=True)
class Watch:
    """One kind of one client."""

    kind: Kind
    has: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the client runs; outlives streams."""
    claims: dict[str, str] = dataclasses.field(default_factory=dict)
    """What it says that it has when it connects anew: what it took without a complaint."""
    version: str = ""
    """The `version_info` that it took last."""
    opened: bool = False
    wildcard: bool = False
    names: frozenset[str] = frozenset()
    named: bool = False
    known: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the server was told that the client has; "" for what it cannot know after a refusal."""
    accepted: set[str] = dataclasses.field(default_factory=set)
    """Names that the client has said yes to, on this stream or when it opened it, and was not told to drop since."""
    asked: set[str] = dataclasses.field(default_factory=set)
    """Names that may come although they are known."""
    must: set[str] = dataclasses.field(default_factory=set)
    """Names that have to be answered."""
    pending: Got | None = None
    forgone: set[str] = dataclasses.field(default_factory=set)
    """Names that were dropped while a response with them was on its way, which the client then passes over."""
    answered: str = ""
    """The nonce that the client answered last."""
    last: str = ""
    """The nonce that the server gave last."""
    nonces: set[str] = dataclasses.field(default_factory=set)
    refused_version: str = ""
    refused: frozenset[str] = frozenset()
    """What was refused, at which version of the kind last, and has not been taken since."""
    refused_there: frozenset[str] = frozenset()
    """Those of it that were refused at that version."""
    refused_whole: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def covers(self, name: str) -> bool:
        """Whether the client wants *name*."""
        return self.wildcard or name in self.names

    def begin_stream(self) -> None:
        """Forget what belongs to a stream."""
        fresh = Watch(self.kind, self.has, self.claims, self.version)
        for field in dataclasses.fields(Watch):
            setattr(self, field.name, getattr(fresh, field.name))

    def subscribe(self, *, wildcard: bool, names: frozenset[str]) -> frozenset[str]:
        """Want this from now on; return the names that are new."""
        new = names - self.names if not self.wildcard else frozenset()
        self.wildcard, self.names = wildcard, names
        if not wildcard:
            for held in (self.has, self.claims, self.known):
                for name in held.keys() - names:
                    del held[name]
            if self.pending is not None:
                self.forgone |= self.pending.names.keys() - names
            self.asked &= names
            self.must &= names
            self.accepted &= names
        return new


class Client(abc.ABC):
    """A client at the end of a session; subclasses know the words of a variant, behaviours what to say when."""

    variant: Literal["sotw", "delta"]

    def __init__(self, name: str, *, cache: SnapshotCache, world: World, rng: random.Random, is_envoy: bool) -> None:
        self.name = name
        self.is_envoy = is_envoy
        self.rng = rng
        self.world = world
        self.watches = {kind: Watch(kind) for kind in SNAPSHOT_KINDS}
        self.inbox: list[Got] = []
        self.lines: list[str] | None = None
        self.target: Published | None = None
        self.now = 0.0
        self._cache = cache
        self._endpoints_due: set[str] = set()
        self.session = self._connect()

    # -- the stream ----------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """As a stream of the cache."""
        return self.session.settled

    def offer(self, served: Served) -> None:
        """As a stream of the cache."""
        self.session.update(served)

    def reconnect(self, cache: SnapshotCache) -> None:
        """Leave the stream, with all that was under way, and open another one."""
        self._cache.unregister(self)
        self._cache = cache
        self.inbox.clear()
        self._endpoints_due.clear()
        for watch in self.watches.values():
            self._forget_stream(watch)
        self.session = self._connect()

    def _connect(self) -> Session[Any]:
        self._said_node = False
        return self._make_session()

    @abc.abstractmethod
    def _make_session(self) -> Session[Any]:
        """Return a session of the variant."""

    @abc.abstractmethod
    def _forget_stream(self, watch: Watch) -> None:
        """Take *watch* to the next stream."""

    # -- what it says --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def open(self, kind: Kind, names: Iterable[str] = (), *, wildcard: bool = False) -> None:
        """Ask for a kind for the first time on this stream."""

    @abc.abstractmethod
    def change(self, kind: Kind, names: Iterable[str], *, wildcard: bool = False, nonce: str | None = None) -> None:
        """Want exactly these names from now on."""

    @abc.abstractmethod
    def ask_again(self, kind: Kind, names: Iterable[str]) -> None:
        """Ask for names that are wanted already."""

    @abc.abstractmethod
    def answer(self, got: Got, *, words: str | None = None, names: Iterable[str] | None = None) -> None:
        """Acknowledge *got*, or refuse it with *words*; want *names* from now on if they are given."""

    @abc.abstractmethod
    def _request(self) -> Any:
        """Return an empty request."""

    @abc.abstractmethod
    def decode(self, outgoing: Outgoing) -> Got:
        """Read a response."""

    def say_other(self, type_url: str) -> None:
        """Ask for something that is not served."""
        request = self._request()
        request.type_url = type_url
        if self.send(request) != Ignored(type_url):
            raise BrokenPromiseError(f"{type_url} was not ignored")

    def say_nonsense(self) -> None:
        """Break the protocol; the stream must end, and only that."""
        request = self._request()
        try:
            self.send(request)
        except ProtocolError:
            return
        raise BrokenPromiseError("an empty type was taken")

    def send(self, request: Any) -> Reaction:
        """Hand *request* to the session."""
        first = not self._said_node
        if first:
            request.node.CopyFrom(base_pb2.Node(id=self.name, user_agent_name="envoy" if self.is_envoy else "other"))
            self._said_node = True
        reaction = self.session.receive(request, now=self.now)
        if first and self.session.node is not None:
            self._cache.register(self, self.session.node)
        if isinstance(reaction, Nacked):
            self._cache.refused(self, reaction)
        return reaction

    def exchange(self, watch: Watch, request: Any, nonce: str, *, words: str | None = None) -> bool:
        """Send an answer or a question; return whether it answered the last response."""
        request.response_nonce = nonce
        if words is not None:
            request.error_detail.code = 13
            request.error_detail.message = words
        pending = watch.pending
        answers = pending is not None and nonce == pending.nonce and watch.opened
        reaction = self.send(request)
        kind = watch.kind
        if not watch.opened or not nonce:
            expected: type[Any] = Subscribed
        elif not answers:
            expected = Stale
        else:
            expected = Acked if words is None else Nacked
        if not isinstance(reaction, expected) or reaction.kind is not kind:
            raise BrokenPromiseError(f"took a request of {kind.name} for {reaction}, not for {expected.__name__}")
        if answers and pending is not None:
            watch.pending = None
            self._answered(watch, pending, refused=words is not None)
        return answers

    def _answered(self, watch: Watch, got: Got, *, refused: bool) -> None:
        if refused:
            there = watch.refused_there if watch.refused_version == got.version else frozenset()
            watch.refused_version = got.version
            watch.refused_there = there | got.touched
            watch.refused |= got.touched
            watch.refused_whole = got.names
            for name in self._told(watch, got):
                watch.known[name] = ""
            return
        watch.refused -= got.touched
        watch.refused_there -= got.touched
        if self._is_whole(got):
            watch.known.clear()
        sure = (name for name in got.names if watch.covers(name) and name not in watch.forgone)
        watch.known.update({name: got.names[name] for name in sure})
        for name in got.removed:
            watch.known.pop(name, None)
        if self.variant == "sotw":
            self._forget_unsaid(watch)
        watch.accepted = set(watch.known)

    def _told(self, watch: Watch, got: Got) -> frozenset[str]:
        """Return everything that a response is about: a whole one also says what is gone."""
        return got.touched.union(watch.known) if self._is_whole(got) else got.touched

    def _is_whole(self, got: Got) -> bool:
        return self.variant == "sotw" and got.kind.is_full_state

    def aim(self, published: Published) -> None:
        """Know what is served from now on."""
        for watch in self.watches.values():
            if self.target is not None and self.target.versions[watch.kind] != published.versions[watch.kind]:
                watch.refused_version = CHANGED
        self.target = published
        if self.variant == "sotw":
            for watch in self.watches.values():
                self._forget_unsaid(watch)

    def _forget_unsaid(self, watch: Watch) -> None:
        """That something is gone cannot be said of some kinds; should it come back, it is new."""
        if self.target is not None and not watch.kind.is_full_state:
            for name in watch.known.keys() - self.target.wanted[watch.kind].keys():
                watch.known[name] = ""

    # -- what it hears -------------------------------------------------------------------------------------------------

    def take(self, most: int = 100) -> int:
        """Let the session write what is due, *most* messages at most; hold each against what was promised."""
        for count in range(most):
            outgoing = self.session.take(now=self.now)
            if outgoing is None:
                return count
            got = self.decode(outgoing)
            if self.lines is not None:
                self.lines.append(f"  {self.name} <- {got}")
            if outgoing.kind is not got.kind:
                raise BrokenPromiseError(f"{got.kind.name} went out as {outgoing.kind.name}")
            self._check(self.watches[got.kind], got)
            self.inbox.append(got)
        return most

    def _check(self, watch: Watch, got: Got) -> None:
        published = self.target
        if published is None:
            raise BrokenPromiseError("something was sent before anything was published")
        if not watch.opened or watch.pending is not None:
            raise BrokenPromiseError(f"{got.kind.name} was sent without a request or before an answer to the last")
        if not got.nonce or got.nonce in watch.nonces:
            raise BrokenPromiseError(f"nonce {got.nonce!r} came twice")
        self._check_content(watch, got, published.wanted[got.kind])
        self._check_asked(watch, got)
        self._check_refused(watch, got)
        if got.kind is Kind.RDS:
            self._check_clusters(watch, got)
        if got.kind is Kind.CDS:
            for name, version in got.names.items():
                if watch.known.get(name) != version:
                    self._endpoints_due |= self.world.leads_to(Kind.CDS, version)
        elif got.kind is Kind.EDS:
            self._endpoints_due -= got.touched
        watch.accepted &= set(got.names) if self._is_whole(got) else watch.accepted - got.removed
        watch.asked -= got.touched | {STAR}
        watch.must -= got.touched
        if self._is_whole(got):
            watch.asked.clear()
        watch.pending = got
        watch.forgone.clear()
        watch.last = got.nonce
        watch.nonces.add(got.nonce)

    def _check_content(self, watch: Watch, got: Got, wanted: Mapping[str, str]) -> None:
        for name, version in got.names.items():
            if not watch.covers(name):
                raise BrokenPromiseError(f"{name} was sent, which is not wanted")
            if wanted.get(name, version) != version:
                raise BrokenPromiseError(f"{name} was sent as it was, not as it is")
        if got.removed & got.names.keys():
            raise BrokenPromiseError("a name was sent and removed at once")
        for name in got.removed:
            if name in wanted:
                raise BrokenPromiseError(f"{name} was removed, which is there")
            if name not in watch.known and name not in watch.asked and name not in watch.refused:
                raise BrokenPromiseError(f"the removal of {name} was told to a client that never had it")
        if self._is_whole(got):
            missing = [name for name in wanted if watch.covers(name) and name not in got.names]
            if missing:
                raise BrokenPromiseError(f"a response with everything lacks {', '.join(missing)}")

    def _check_asked(self, watch: Watch, got: Got) -> None:
        """Nothing comes unasked that is acknowledged, but for the endpoints of a changed cluster."""
        allowed = watch.asked | self._endpoints_due if got.kind is Kind.EDS else watch.asked
        old = [name for name, version in got.names.items() if watch.known.get(name) == version and name not in allowed]
        if not self._is_whole(got):
            if old:
                raise BrokenPromiseError(f"{', '.join(old)} came unasked, and the client has it")
            if not got.touched and watch.nonces:
                raise BrokenPromiseError("an empty response came unasked")
        elif len(old) == len(got.names) and watch.nonces and not watch.asked and watch.known.keys() == got.names.keys():
            raise BrokenPromiseError("a response came unasked, and the client has all of it")

    def _check_refused(self, watch: Watch, got: Got) -> None:
        """What was refused does not come again until something has changed."""
        if watch.refused_version != got.version or STAR in watch.asked:
            return
        allowed = watch.asked | self._endpoints_due if got.kind is Kind.EDS else watch.asked
        there = self.target.wanted[got.kind] if self.target is not None else {}
        again = [name for name in got.touched & watch.refused_there if name not in allowed and name in there]
        if self._is_whole(got) and (watch.asked or got.names != watch.refused_whole):
            return
        if again:
            raise BrokenPromiseError(f"{', '.join(sorted(again))} came again, and was refused")

    def _check_clusters(self, watch: Watch, got: Got) -> None:
        """No route comes before the client has said yes to its clusters."""
        clusters = self.watches[Kind.CDS]
        if not clusters.opened:
            return
        for name, version in got.names.items():
            if version in (watch.known.get(name), watch.has.get(name)):
                continue
            for cluster in self.world.leads_to(Kind.RDS, version):
                if clusters.covers(cluster) and cluster not in clusters.accepted:
                    raise BrokenPromiseError(f"the routes {name} came before an acknowledgement of {cluster}")

    # -- what it does with it ------------------------------------------------------------------------------------------

    def apply(self, got: Got, *, but: frozenset[str] = frozenset()) -> None:
        """Run what *got* says, *but* for some names of it."""
        watch = self.watches[got.kind]
        if self._is_whole(got):
            for name in watch.has.keys() - got.names.keys() - but:
                del watch.has[name]
        for name in got.removed - but:
            watch.has.pop(name, None)
        for name, version in got.names.items():
            if name not in but and name not in watch.forgone and watch.covers(name):
                watch.has[name] = version
        if not but:
            watch.claims = dict(watch.has)
            watch.version = got.version
