"""What holds for every conversation: a session never raises, never repeats itself unasked, and always gets there."""

import dataclasses

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.errors import InvalidInputError
from controlplane.xds.kinds import Kind
from controlplane.xds.snapshot import Snapshot
from tests.xds import DeltaClient, Got, SotwClient, make_cache, make_snapshot, record

CLUSTERS = ["a", "b", "c"]
ROUTES = ["r", "s"]
LISTENERS = ["l", "m"]
REVISIONS = st.integers(1, 3)
SETTINGS = settings(
    derandomize=True,  # the same conversations every time; a longer hunt is a job for a person, with --hypothesis-seed
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    cds = draw(st.dictionaries(st.sampled_from(CLUSTERS), REVISIONS, min_size=1))
    names = sorted(cds)
    rds = {
        name: (draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)), draw(REVISIONS))
        for name in draw(st.lists(st.sampled_from(ROUTES), min_size=1, unique=True))
    }
    lds = {
        name: (draw(st.sampled_from(sorted(rds))), draw(REVISIONS))
        for name in draw(st.lists(st.sampled_from(LISTENERS), min_size=1, unique=True))
    }
    return make_snapshot(cds=cds, eds={name: draw(REVISIONS) for name in names}, lds=lds, rds=rds)


@dataclasses.dataclass
class Held:
    """What a client runs, as its own answers make it."""

    resources: dict[str, str] = dataclasses.field(default_factory=dict)
    waiting: list[Got] = dataclasses.field(default_factory=list)


class Conversation(RuleBasedStateMachine):
    """An Envoy that may answer late, refuse, ask again, reconnect, while the control plane changes its mind."""

    variant = "sotw"

    def __init__(self) -> None:
        super().__init__()
        self.cache = make_cache()
        self.published: Snapshot | None = None
        self.held = {kind: Held() for kind in Kind}
        self.asked: dict[Kind, set[str]] = {}
        self.broken: set[str] = set()
        self.leads_to: dict[str, frozenset[str]] = {}
        self.refused: set[Kind] = set()
        self.answered = dict.fromkeys(Kind, False)
        self.client = self.connect()

    def connect(self) -> SotwClient | DeltaClient:
        make = SotwClient if self.variant == "sotw" else DeltaClient
        return make(self.cache, agent="envoy")

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(snapshot=snapshots())
    def publish(self, snapshot: Snapshot) -> None:
        self.note_links(snapshot)
        self.cache.publish(record(snapshot))
        self.published = snapshot
        self.read()

    @rule()
    def publish_nothing(self) -> None:
        if self.published is None:
            return
        try:
            self.cache.publish(record(make_snapshot()))
        except InvalidInputError:
            return
        raise AssertionError("it was published")

    @rule(kind=st.sampled_from(Kind))
    def answer(self, kind: Kind) -> None:
        waiting = self.held[kind].waiting
        if not waiting:
            return
        got = waiting.pop(0)
        self.answered[kind] = True
        if self.is_broken(got):
            self.client.nack(got)
            self.refused.add(kind)
        else:
            self.apply(got)
            self.client.ack(got)
            self.follow_references()
        self.read()

    @rule(name=st.sampled_from(CLUSTERS + ROUTES + LISTENERS), revision=REVISIONS)
    def will_refuse(self, name: str, revision: int) -> None:
        if self.published is not None:
            for kind in Kind:
                resource = self.published.resources[kind].get(name)
                if resource is not None and revision == 1:
                    self.broken.add(resource.version)

    @rule(kind=st.sampled_from([Kind.CDS, Kind.LDS]))
    def ask_for_everything(self, kind: Kind) -> None:
        if kind not in self.asked and (
            kind is Kind.CDS or Kind.CDS in self.asked
        ):  # listeners are Envoy's second question
            self.asked[kind] = {"*"}
            self.first(kind, ())

    @rule(kind=st.sampled_from([Kind.EDS, Kind.RDS]), name=st.sampled_from(CLUSTERS + ROUTES))
    def ask_again(self, kind: Kind, name: str) -> None:
        if name in self.asked.get(kind, ()):
            self.ask(kind, name)

    @rule()
    def reconnect(self) -> None:
        self.client.leave()
        self.client = self.connect()
        for kind in Kind:
            self.held[kind].waiting.clear()
        self.refused.clear()
        self.answered = dict.fromkeys(Kind, False)
        asked, self.asked = self.asked, {}
        for kind in Kind:
            if kind in asked:
                self.asked[kind] = asked[kind]
                self.first(kind, tuple(sorted(asked[kind] - {"*"})))

    def note_links(self, snapshot: Snapshot) -> None:
        for name, resource in snapshot.resources[Kind.RDS].items():
            self.leads_to[resource.version] = snapshot.links.clusters_of[name]
        for name, resource in snapshot.resources[Kind.LDS].items():
            self.leads_to[resource.version] = snapshot.links.routes_of[name]

    # -- how an Envoy behaves ------------------------------------------------------------------------------------------

    def first(self, kind: Kind, names: tuple[str, ...]) -> None:
        held = self.held[kind].resources
        if isinstance(self.client, SotwClient):
            self.note(self.client.ask(kind, *names, version="before" if held else ""), asked=names)
        else:
            self.note(self.client.ask(kind, *names, has=held))

    def ask(self, kind: Kind, *names: str) -> None:
        if isinstance(self.client, SotwClient):
            self.note(self.client.ask(kind, *sorted(self.asked[kind] - {"*"})), asked=tuple(self.asked[kind]))
        else:
            self.note(self.client.ask(kind, *names), asked=names)

    def follow_references(self) -> None:
        """Ask for the endpoints of clusters and the routes of listeners, and drop what nothing leads to any more."""
        listeners = self.held[Kind.LDS].resources.values()
        wanted_of = {
            Kind.EDS: set(self.held[Kind.CDS].resources),
            Kind.RDS: {name for version in listeners for name in self.leads_to[version]},
        }
        for kind, wanted in wanted_of.items():
            before = self.asked.get(kind, set())
            if wanted == before:
                continue
            self.asked[kind] = wanted
            held = self.held[kind].resources
            for name in before - wanted:
                held.pop(name, None)
            new = tuple(sorted(wanted - before))
            if not before:
                self.first(kind, new)
            elif isinstance(self.client, SotwClient):
                self.note(self.client.ask(kind, *sorted(wanted)), asked=new)
            else:
                self.note(self.client.ask(kind, *new, drop=sorted(before - wanted)), asked=new)

    def read(self) -> None:
        self.note(self.client.take())

    def note(self, found: list[Got], *, asked: tuple[str, ...] = ()) -> None:
        for got in found:
            self.check_new(got, asked)
            self.held[got.kind].waiting.append(got)
            assert len(self.held[got.kind].waiting) == 1, "two of a kind without an answer"

    def check_new(self, got: Got, asked: tuple[str, ...]) -> None:
        """Nothing comes unasked that the client has said yes to, but for the endpoints of changed clusters."""
        if got.kind in self.refused or got.kind is Kind.EDS or self.client.reaction is None:
            return
        held = self.held[got.kind].resources
        new = [name for name, version in got.versions.items() if held.get(name) != version or name in asked]
        if self.variant == "sotw" and not self.answered[got.kind]:
            return  # the first answer on a stream: this variant does not say what it has
        if self.variant == "sotw" and got.kind.is_full_state:
            assert new or held.keys() - got.versions.keys(), "nothing new"
        else:
            assert len(new) == len(got.versions), "something old"

    def apply(self, got: Got) -> None:
        held = self.held[got.kind].resources
        if self.variant == "sotw" and got.kind.is_full_state:
            held.clear()
        wanted = self.asked[got.kind]  # an answer may have been on its way when its name was dropped
        held.update({name: version for name, version in got.versions.items() if wanted & {"*", name}})
        for name in got.removed:
            held.pop(name, None)

    def is_broken(self, got: Got) -> bool:
        return any(version in self.broken for version in got.versions.values())

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def routes_lead_to_clusters_that_the_client_has(self) -> None:
        """The point of it all: no acknowledged route names a cluster that was taken away or has not come yet."""
        clusters = self.held[Kind.CDS].resources
        for name, version in self.held[Kind.RDS].resources.items():
            for cluster in self.leads_to[version]:
                assert cluster in clusters, f"{name} leads to {cluster}"

    def teardown(self) -> None:
        """Whatever happened: once something good is published and everything answered, the client runs just that."""
        self.broken.clear()
        if self.published is None:
            return
        self.publish(snapshot=FINAL)
        for kind in (Kind.CDS, Kind.LDS):
            self.ask_for_everything(kind)
        self.read()
        for _ in range(60):
            if not any(held.waiting for held in self.held.values()):
                break
            for kind in Kind:
                self.answer(kind)
        levels = dict(self.client.session.levels())
        assert {kind: level.acked for kind, level in levels.items()} == dict(FINAL.versions)
        assert self.client.session.settled
        assert self.client.take() == []


FINAL = make_snapshot(
    cds={"a": 9, "z": 1}, lds={"l": ("r", 9), "y": ("x", 1)}, rds={"r": (["a", "z"], 9), "x": (["z"], 1)}
)


class DeltaConversation(Conversation):
    """The same, incrementally."""

    variant = "delta"


TestSotw = Conversation.TestCase
TestSotw.settings = SETTINGS
TestDelta = DeltaConversation.TestCase
TestDelta.settings = SETTINGS
