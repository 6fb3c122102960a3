"""Clients that poll: REST-JSON discovery, answered from the same sessions as streams, without the transport.

A poll names the version that the client has. That version is the hash of exactly what this client should have under
the names it asks for, so a restart of ours changes nothing and what is unchanged is answered with "not modified"; so is
what has to wait. A client that names what it was sent last has acknowledged it. Envoy 1.40 says nothing when it refuses
something: it polls again with the version from before. So an answer is repeated once, for it may have been lost, and
counts as refused after that.
"""

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import structlog
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.channel import Nacked, Reaction, Unanswered
from controlplane.xds.conversations import Clients, Conversation
from controlplane.xds.fleet import Fleet
from controlplane.xds.kinds import Kind
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.responses import NOTHING, Held, Served
from controlplane.xds.session import MAX_NODE_ID, identify
from controlplane.xds.sotw import SotwSession
from controlplane.xds.sources import Source

log = structlog.get_logger()

POLL_LIMIT: Final = dt.timedelta(seconds=30)
"""A client that has not polled for so long is gone, and so is a name that it asks for no more."""

SWEEP: Final = dt.timedelta(seconds=5)

MAX_NODES: Final = 10_000
"""Nodes that may poll here at a time: anybody who is let in can invent names, and each is memory of ours."""

MAX_CONVERSATIONS: Final = 5_000
"""Sets of names that one node may poll for at a time. Envoy polls for each cluster's endpoints by themselves."""

MAX_POLLED_NAMES: Final = 1_000

NO_WORDS: Final = "no words: it polls without ADS and did not take this twice; update_rejected and Envoy's log say why"

NODE_FIELDS: Final = ("id", "cluster", "metadata", "user_agent_name", "user_agent_version", "user_agent_build_version")
"""What is read of a node: the rest is a thousand extensions, which cost more to read than all else together."""

KINDS: Final[Mapping[str, Kind]] = {
    "clusters": Kind.CDS,
    "endpoints": Kind.EDS,
    "listeners": Kind.LDS,
    "routes": Kind.RDS,
}
"""What may be polled for, by the last word of the path."""


class RestConversation(Conversation, SotwSession):
    """What one client polls for under one set of names."""

    source = Source.REST

    def __init__(self, kind: Kind, clients: Clients) -> None:
        super().__init__(kind, clients, _nobody_waits)
        self.polled_at = 0.0
        self.reactions: list[Reaction] = []
        self._claimed = ""
        self._sent: Unanswered | None = None
        self._sent_version = ""
        self._attempts: Counter[str] = Counter()

    def poll(self, request: Any, served: Served, *, now: float) -> bytes | None:
        """Take in a poll and return the answer as JSON, or None for "not modified"; *reactions* has what it meant.

        *served* is for the first poll; after that, `update` says it.
        """
        self.polled_at = now
        self.reactions = []
        if self._channel.subscription is None:
            self.reactions.append(self.receive(request, now=now))
            self.update(served)
            self._adopt(request.version_info, now=now)
        else:
            self._interpret(request, now=now)
        self._claimed = request.version_info
        if self.take(now=now) is None:
            return None
        sent = self._channel.unanswered
        if sent is None:
            return None
        version = version_of(self._channel.held)
        if version != self._sent_version:
            self._attempts.clear()
        self._sent, self._sent_version = sent, version
        self._attempts[self._claimed] += 1
        return sent.view.json(self.kind, sent.touched, version)

    def _adopt(self, claimed: str, *, now: float) -> None:
        """Believe a client of a process before this one that it has what it says, if that is what is served."""
        channel = self._channel
        if self._served is None or not claimed:
            return
        for view in (self._served.target, self._served.transition):
            selection = view.selection(self.kind, self.subscription)
            if claimed == version_of(selection):
                channel.held, channel.accepted, channel.greeted = selection, selection.keys(), True
                self._joined().acked(self, now=now)
                return

    def _interpret(self, request: Any, *, now: float) -> None:
        channel, claimed = self._channel, request.version_info
        if channel.unanswered is not None:
            if claimed == self._sent_version:
                self._answer(request, now=now)
            elif request.HasField("error_detail"):
                self._answer(request, request.error_detail.message, now=now)
            elif self._attempts[claimed] > 1:
                self._answer(request, NO_WORDS, now=now)
            else:
                channel.unanswered = None  # lost on the way, as far as anybody knows
                self._forget()
        elif channel.refused and claimed == self._sent_version:
            channel.unanswered = self._sent  # it did take it, later than was thought
            self._answer(request, now=now)
        elif claimed != self._claimed:
            self._forget()  # another Envoy of this name, or a second one of its clusters while it warms

    def _forget(self) -> None:
        self._channel.held = NOTHING
        self._channel.idle_in = None
        if self.kind is Kind.EDS:
            self._channel.accepted = ()

    def _answer(self, request: Any, words: str | None = None, *, now: float) -> None:
        if self._channel.unanswered is None:
            return
        answer = discovery_pb2.DiscoveryRequest(
            resource_names=request.resource_names,
            version_info=request.version_info,
            response_nonce=self._channel.unanswered.nonce,
        )
        if words is not None:
            answer.error_detail.message = words
        self.reactions.append(self.receive(answer, now=now))


class _Node:
    """All that one node polls for; a listener of the cache for all of it."""

    def __init__(self) -> None:
        self.served: Served | None = None
        self.conversations: dict[tuple[Kind, frozenset[str]], RestConversation] = {}

    @property
    def settled(self) -> bool:
        """Whether the client needs nothing older than the target."""
        return all(conversation.settled for conversation in self.conversations.values())

    def offer(self, served: Served) -> None:
        """Serve this from now on."""
        self.served = served
        for conversation in self.conversations.values():
            conversation.update(served)

    def has_clusters(self) -> bool:
        """Whether the client has said that it has clusters."""
        found = [one for (kind, _), one in self.conversations.items() if kind is Kind.CDS]
        return any(one.accepted for one in found)


class RestPolls:
    """Answers the polls of a process.

    Args:
        cache: What is served.
        clients: Where conversations of one node find each other.
        fleet: Told who polls and what they made of the answers.
        clock: Steady time for limits.
        metrics: Pushes, and nodes that poll.
    """

    def __init__(
        self, *, cache: SnapshotCache, clients: Clients, fleet: Fleet, clock: Clock, metrics: XdsMetrics
    ) -> None:
        self._cache = cache
        self._clients = clients
        self._fleet = fleet
        self._clock = clock
        self._pushes = metrics.pushes
        self._polling = metrics.streams.labels(Source.REST.value)
        self._nodes: dict[str, _Node] = {}

    def poll(self, resource: str, document: object) -> bytes | None:
        """Answer a `DiscoveryRequest` with a `DiscoveryResponse`, both as JSON; None: the client has all it should.

        Args:
            resource: The last word of the path: clusters, endpoints, listeners or routes.
            document: The request, decoded.

        Raises:
            NotFoundError: There is no such *resource*.
            InvalidInputError: The request is wrong.
            UnavailableError: Nothing can be served yet, or no more clients.
        """
        kind = KINDS.get(resource)
        if kind is None:
            raise NotFoundError("discovery type", resource[:MAX_NODE_ID], tuple(KINDS))
        request = read_request(kind, document)
        node = self._node(kind, request)
        if node.served is None:
            raise UnavailableError("no configuration is loaded yet; ask again soon")
        conversation = self._conversation(node, kind, frozenset(request.resource_names))
        answer = conversation.poll(request, node.served, now=self._clock.steady())
        if answer is not None:
            self._pushes[kind].inc()
        self._report(node, conversation)
        return answer

    async def run(self) -> None:
        """Forget who polls no more, for ever."""
        while True:
            await self._clock.sleep(SWEEP)
            self.sweep()

    def sweep(self) -> None:
        """Forget the nodes, and the names, that have not been polled for in a while."""
        oldest = self._clock.steady() - POLL_LIMIT.total_seconds()
        for name, node in tuple(self._nodes.items()):
            for key, conversation in tuple(node.conversations.items()):
                if conversation.polled_at < oldest:
                    del node.conversations[key]
                    conversation.leave()
            if not node.conversations:
                self._drop(name, node)

    def _node(self, kind: Kind, request: Any) -> _Node:
        name = request.node.id
        node = self._nodes.get(name)
        if node is not None and kind is Kind.CDS and not request.version_info and node.has_clusters():
            self._drop(name, node)  # a new process: nothing that the one before it had or said is true of it
            node = None
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                raise UnavailableError(f"node.id: {MAX_NODES} clients poll already; run another replica")
            node = _Node()
            self._cache.register(node, identify(request.node))
            self._nodes[name] = node
            self._polling.inc()
        return node

    def _conversation(self, node: _Node, kind: Kind, names: frozenset[str]) -> RestConversation:
        conversation = node.conversations.get((kind, names))
        if conversation is None:
            if len(node.conversations) >= MAX_CONVERSATIONS:
                raise UnavailableError(f"resource_names: {MAX_CONVERSATIONS} sets of names are polled for already")
            conversation = RestConversation(kind, self._clients)
            node.conversations[kind, names] = conversation
        return conversation

    def _report(self, node: _Node, conversation: RestConversation) -> None:
        link = conversation.link
        if link is None:
            return
        for reaction in conversation.reactions:
            self._fleet.reacted(link, reaction)
            if isinstance(reaction, Nacked):
                self._cache.refused(node, reaction)
        for kind, level in conversation.levels():
            self._fleet.moved(link, kind, level)

    def _drop(self, name: str, node: _Node) -> None:
        del self._nodes[name]
        self._cache.unregister(node)
        self._polling.dec()
        for conversation in node.conversations.values():
            conversation.leave()


def version_of(held: Held) -> str:
    """Return the version that a client names which has exactly this."""
    whole = "".join(f"{name}={held[name]};" for name in sorted(held))
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def read_request(kind: Kind, document: object) -> Any:
    """Return the `DiscoveryRequest` that *document* is, with `NODE_FIELDS` of its node.

    Its field names may be those of the messages, as Envoy writes them, or lowerCamelCase.

    Raises:
        InvalidInputError: It is none, or says nothing usable.
    """
    if not isinstance(document, dict):
        raise InvalidInputError("body", "is not a JSON object", "send a DiscoveryRequest")
    type_url = _text(document, "type_url")
    if type_url not in ("", kind.type_url):
        raise InvalidInputError("type_url", f"{type_url[:MAX_NODE_ID]!r} is not of this path", f"use {kind.type_url}")
    request = discovery_pb2.DiscoveryRequest(
        type_url=kind.type_url, version_info=_text(document, "version_info"), resource_names=_names(document)
    )
    node = _part(document, "node")
    if not _text(node, "id", "node."):
        raise InvalidInputError("node.id", "is missing", "set node.id in the client's bootstrap")
    if len(node["id"]) > MAX_NODE_ID:
        raise InvalidInputError("node.id", f"is longer than {MAX_NODE_ID} characters", "shorten it")
    try:
        json_format.ParseDict(
            {name: _field(node, name) for name in NODE_FIELDS}, request.node, ignore_unknown_fields=True
        )
    except (json_format.ParseError, RecursionError) as exc:
        raise InvalidInputError("node", "is not readable", "send a Node of envoy.config.core.v3") from exc
    error = _part(document, "error_detail")
    if error:
        request.error_detail.message = _text(error, "message", "error_detail.") or "(no words)"
    return request


def _field(document: Mapping[str, Any], name: str) -> Any:
    first, *rest = name.split("_")
    found = document.get(name)
    return document.get(first + "".join(map(str.capitalize, rest))) if found is None else found


def _text(document: Mapping[str, Any], name: str, path: str = "") -> str:
    found = _field(document, name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidInputError(f"{path}{name}", "is not a text", "put it in quotes")
    try:
        found.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInputError(f"{path}{name}", "is not Unicode", "send whole characters") from exc
    return found


def _part(document: Mapping[str, Any], name: str, path: str = "") -> Mapping[str, Any]:
    found = _field(document, name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path}{name}", "is not a JSON object", "write it in braces")
    return found


def _names(document: Mapping[str, Any]) -> list[str]:
    found = _field(document, "resource_names")
    if found is None:
        return []
    if not isinstance(found, list):
        raise InvalidInputError("resource_names", "is not a list", "write the names in brackets")
    if len(found) > MAX_POLLED_NAMES:
        raise InvalidInputError("resource_names", f"are more than {MAX_POLLED_NAMES}", "poll for fewer at a time")
    return [_text({"resource_names": name}, "resource_names") for name in found]


def _nobody_waits() -> None:
    """Do nothing: a client that polls asks again by itself."""
