"""The words of the two variants, from the client's side: what a request means, and what a response says."""

from collections.abc import Iterable
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from controlplane.lab.fuzz_client import STAR, BrokenPromiseError, Client, Got, Watch
from controlplane.lab.fuzz_world import World
from controlplane.xds.channel import Outgoing
from controlplane.xds.delta import DeltaSession
from controlplane.xds.kinds import Kind, find_kind
from controlplane.xds.session import Session
from controlplane.xds.sotw import SotwSession


class SotwClient(Client):
    """Every request lists all names; a response of listeners or clusters has all of them."""

    variant = "sotw"

    def _make_session(self) -> Session[Any]:
        return SotwSession()

    def _forget_stream(self, watch: Watch) -> None:
        watch.begin_stream()

    def _request(self) -> Any:
        return discovery_pb2.DiscoveryRequest()

    def open(self, kind: Kind, names: Iterable[str] = (), *, wildcard: bool = False) -> None:
        watch = self.watches[kind]
        listed = sorted(names)
        if wildcard and (listed or not kind.is_full_state or self.rng.random() < 0.3):
            listed.append(STAR)
        # The nonce of an old stream, if any, means nothing.
        self._say(watch, listed, self.rng.choice(("", "", "1", "old")))
        watch.opened = True
        watch.must |= watch.names

    def change(self, kind: Kind, names: Iterable[str], *, wildcard: bool = False, nonce: str | None = None) -> None:
        listed = sorted(names) + [STAR] * wildcard
        self._say(self.watches[kind], listed, self.watches[kind].answered if nonce is None else nonce)

    def ask_again(self, kind: Kind, names: Iterable[str]) -> None:  # noqa: ARG002 - this variant always lists all
        watch = self.watches[kind]
        self._say(watch, self._listed(watch), watch.answered)

    def answer(self, got: Got, *, words: str | None = None, names: Iterable[str] | None = None) -> None:
        watch = self.watches[got.kind]
        watch.answered = got.nonce
        self._say(watch, self._listed(watch) if names is None else sorted(names), got.nonce, words=words)

    def _listed(self, watch: Watch) -> list[str]:
        if watch.wildcard and not watch.named:
            return []
        return sorted(watch.names) + [STAR] * watch.wildcard

    def _say(self, watch: Watch, listed: list[str], nonce: str, *, words: str | None = None) -> None:
        kind = watch.kind
        request = discovery_pb2.DiscoveryRequest(
            type_url=kind.type_url, resource_names=listed, version_info=watch.version if words is None else ""
        )
        if self.lines is not None:
            says = f" refuses: {words}" if words else ""
            names = ", ".join(listed) or "(no names)"
            self.lines.append(f"  {self.name} -> {kind.name} {names}, nonce {nonce or '-'}{says}")
        idle = watch.pending is None
        answers = self.exchange(watch, request, nonce, words=words)
        watch.named = watch.named or bool(listed)
        wildcard = STAR in listed or (not listed and kind.is_full_state and not watch.named)
        wanted = frozenset(listed) - {STAR}
        if watch.opened and wildcard == watch.wildcard and wanted == watch.names:
            if not answers and idle and nonce in ("", watch.last) and not kind.is_full_state:
                watch.asked |= wanted
                watch.must |= wanted
            return
        if wildcard and not watch.wildcard:
            watch.asked.add(STAR)  # a response of a full-state kind may be due, whatever is in it
        new = watch.subscribe(wildcard=wildcard, names=wanted)
        watch.asked |= new
        watch.must |= new

    def decode(self, outgoing: Outgoing) -> Got:
        response = discovery_pb2.DiscoveryResponse.FromString(outgoing.data)
        kind = _kind(response.type_url)
        names: dict[str, str] = {}
        for packed in response.resources:
            known = self.world.by_bytes(packed.value)
            if known is None or known.kind is not kind or packed.type_url != kind.type_url:
                raise BrokenPromiseError(f"a resource of {kind.name} that nobody published")
            if known.name in names:
                raise BrokenPromiseError(f"{known.name} is in one response twice")
            names[known.name] = known.version
        return Got(kind, response.version_info, response.nonce, names, frozenset())


class DeltaClient(Client):
    """Requests change the subscription; responses say what changed and what is gone."""

    variant = "delta"

    def _make_session(self) -> Session[Any]:
        return DeltaSession()

    def _forget_stream(self, watch: Watch) -> None:
        # What it took of a response that it refused it does not mention: it says that it has what was before.
        watch.has = dict(watch.claims)
        watch.begin_stream()

    def _request(self) -> Any:
        return discovery_pb2.DeltaDiscoveryRequest()

    def open(self, kind: Kind, names: Iterable[str] = (), *, wildcard: bool = False) -> None:
        watch = self.watches[kind]
        added = sorted(names)
        if wildcard and (added or not kind.is_full_state or self.rng.random() < 0.3):
            added.append(STAR)
        self._say(watch, added, [], self.rng.choice(("", "", "1", "old")), claims=dict(watch.claims))
        watch.opened = True
        watch.known = {name: version for name, version in watch.claims.items() if watch.covers(name)}
        watch.accepted = set(watch.known)
        watch.must -= watch.known.keys()

    def change(self, kind: Kind, names: Iterable[str], *, wildcard: bool = False, nonce: str | None = None) -> None:
        watch = self.watches[kind]
        wanted = frozenset(names)
        added = sorted(wanted - watch.names) + [STAR] * (wildcard and not watch.wildcard)
        dropped = sorted(watch.names - wanted) + [STAR] * (watch.wildcard and not wildcard)
        self._say(watch, added, dropped, nonce or "")

    def ask_again(self, kind: Kind, names: Iterable[str]) -> None:
        self._say(self.watches[kind], sorted(names), [], "")

    def answer(self, got: Got, *, words: str | None = None, names: Iterable[str] | None = None) -> None:
        watch = self.watches[got.kind]
        watch.answered = got.nonce
        wanted = watch.names if names is None else frozenset(names)
        self._say(watch, sorted(wanted - watch.names), sorted(watch.names - wanted), got.nonce, words=words)

    def _say(
        self,
        watch: Watch,
        added: list[str],
        dropped: list[str],
        nonce: str,
        *,
        words: str | None = None,
        claims: dict[str, str] | None = None,
    ) -> None:
        kind = watch.kind
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=kind.type_url,
            resource_names_subscribe=added,
            resource_names_unsubscribe=dropped,
            initial_resource_versions=claims or {},
        )
        if self.lines is not None:
            says = f" refuses: {words}" if words else ""
            has = f" has {', '.join(f'{name}={version[:4]}' for name, version in claims.items())}" if claims else ""
            change = " ".join([f"+{name}" for name in added] + [f"-{name}" for name in dropped])
            self.lines.append(f"  {self.name} -> {kind.name} {change or '(no names)'}{has}, nonce {nonce or '-'}{says}")
        self.exchange(watch, request, nonce, words=words)
        implied = not watch.opened and not added and not dropped and kind.is_full_state
        wildcard = (watch.wildcard or implied or STAR in added) and STAR not in dropped
        before = watch.names
        watch.subscribe(wildcard=wildcard, names=(before | frozenset(added)) - frozenset(dropped) - {STAR})
        due = set(added)
        if wildcard and watch.opened:
            due |= before & set(dropped)
        watch.asked |= due
        watch.must |= due - {STAR}

    def decode(self, outgoing: Outgoing) -> Got:
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(outgoing.data)
        kind = _kind(response.type_url)
        names: dict[str, str] = {}
        for resource in response.resources:
            known = self.world.by_bytes(resource.resource.value)
            if known is None or (known.kind, known.name, known.version) != (kind, resource.name, resource.version):
                raise BrokenPromiseError(f"{resource.name} of {kind.name} is nothing that was published")
            if known.name in names:
                raise BrokenPromiseError(f"{known.name} is in one response twice")
            names[known.name] = known.version
        removed = frozenset(response.removed_resources)
        if len(removed) != len(response.removed_resources):
            raise BrokenPromiseError("a name is removed twice")
        return Got(kind, response.system_version_info, response.nonce, names, removed)


def _kind(type_url: str) -> Kind:
    kind = find_kind(type_url)
    if kind is None:
        raise BrokenPromiseError(f"a response of type {type_url!r}")
    return kind


def make_client(variant: str, name: str, **given: Any) -> Client:
    """Return a client of *variant*."""
    return (SotwClient if variant == "sotw" else DeltaClient)(name, **given)


__all__ = ["DeltaClient", "SotwClient", "World", "make_client"]
