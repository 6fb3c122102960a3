"""Services and their revisions: what is declared, what is refused, what is served."""

import dataclasses
import datetime as dt

import pytest

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, PreconditionFailedError
from controlplane.ports import CatalogueStore, RevisionStatus, Store
from controlplane.rollout.model import Plan, Step
from controlplane.rollout.slo import (
    ClientErrorSlo,
    ErrorRateSlo,
    LatencySlo,
    OnBreach,
    OnDrift,
    QualitySlo,
    RatioQuerySlo,
    Terms,
    ValueQuerySlo,
)
from controlplane.traffic.model import (
    Endpoint,
    HeaderMatch,
    HeaderRule,
    HealthCheck,
    Listener,
    Route,
    RouteMatch,
    ServiceSpec,
    Share,
    Version,
)
from tests.builders import NOW, make_new_rollout, make_spec, make_split, make_version, seconds

MICROSECOND = dt.timedelta(microseconds=1)

FULL_SPEC = ServiceSpec(
    name="everything",
    listener=Listener("l", "::", 1, stat_prefix="s", certificate="a.example"),
    virtual_host="vh",
    route_config="rc",
    versions=(
        Version(
            "b",
            "cb",
            (Endpoint("worker.example", 80), Endpoint("10.0.0.1", 65535), Endpoint("worker.example", 79)),
            HealthCheck("/x", seconds(0.25) + MICROSECOND, seconds(299), 7, 8),
            connect_timeout=seconds(1) / 3,
        ),
        Version("a", "ca", ()),
    ),
    routes=(
        Route(
            "z",
            RouteMatch("/z", (HeaderMatch("x", HeaderRule.REGEX, ".*"), HeaderMatch("x"), HeaderMatch("b"))),
            version="a",
            timeout=seconds(0.000001),
        ),
        Route("y", RouteMatch("/y", (HeaderMatch("x", HeaderRule.EXACT, "äöü 图"),))),
        Route("c", RouteMatch()),
    ),
    initial_split=(Share("b", 1), Share("a", 9999)),
    slos=(
        LatencySlo("slow", 333.3, 0.999),
        ErrorRateSlo("bad", 0.1 + 0.2, ("5xx", "418"), Terms(OnBreach.PAUSE, muted=True, alpha=1e-3, tolerance=1.5)),
        ClientErrorSlo("nonsense", 0.03, ("404",), Terms(budget=0.5, quiet=seconds(0.25) + MICROSECOND), 0.4),
        RatioQuerySlo("empty", 'a{v="$version"}', 'b{v="$cluster"}', 0.2, seconds(7.5)),
        ValueQuerySlo("memory", "c$version", None, -1.5, 0.3, seconds(1)),
        QualitySlo(
            "faces", 1 / 3, 7.7, 0.1 + 0.2, 0.95, OnDrift.ASK, 12, seconds(60.5), "/transform", Terms(muted=True)
        ),
    ),
    plan=Plan(
        (
            Step(1, seconds(0), quality=False),
            Step(3, seconds(1.5), pause=True, quality=True),
            Step(10_000, dt.timedelta(days=7)),
        ),
        deadline=dt.timedelta(days=30) - MICROSECOND,
        prepare_timeout=seconds(1),
    ),
    domains=("b.example", "a.example"),
)


async def apply(store: CatalogueStore, spec: ServiceSpec) -> int:
    revision, _ = await store.apply(spec, by="ada", why="", now=NOW)
    return revision.number


async def test_a_declaration_is_read_back_as_it_was_written(store: CatalogueStore) -> None:
    revision, is_new = await store.apply(FULL_SPEC, by="ada", why="first", now=NOW)
    record = await store.load_service("everything")
    assert is_new
    assert record.newest == record.served == revision
    assert revision == dataclasses.replace(revision, number=1, status=RevisionStatus.PROPOSED, words="", at=NOW)
    assert (revision.spec, revision.by, revision.why) == (FULL_SPEC, "ada", "first")
    assert record.split == FULL_SPEC.initial_split


async def test_the_same_declaration_again_changes_nothing(store: Store) -> None:
    first, _ = await store.apply(make_spec(), by="ada", why="first", now=NOW)
    again, is_new = await store.apply(make_spec(), by="bob", why="again", now=NOW + seconds(5))
    assert (again, is_new) == (first, False)
    assert len(await store.history("colorize")) == 1


async def test_a_changed_declaration_is_a_new_revision_and_leaves_the_split_alone(store: Store) -> None:
    await apply(store, make_spec())
    await store.set_split("colorize", make_split(v1=9000, v2=1000), by="ada", why="", now=NOW)
    changed = make_spec(versions=("v1", "v2", "v3"))
    revision, is_new = await store.apply(changed, by="bob", why="add v3", now=NOW + seconds(1))
    record = await store.load_service("colorize")
    assert (is_new, revision.number, revision.spec) == (True, 2, changed)
    assert record.newest == revision
    assert record.split == make_split(v1=9000, v2=1000)


async def test_an_unknown_service_is_named_with_those_there_are(store: CatalogueStore) -> None:
    with pytest.raises(NotFoundError, match=r"service 'x' does not exist \(there is none yet\)"):
        await store.load_service("x")
    await apply(store, make_spec())
    with pytest.raises(NotFoundError, match="known: colorize"):
        await store.load_service("x")


async def test_services_are_listed_by_name(store: CatalogueStore) -> None:
    assert await store.list_services() == ()
    await apply(store, make_spec("b", port=1))
    await apply(store, make_spec("a", port=2))
    records = await store.list_services()
    assert [record.name for record in records] == ["a", "b"]
    assert records[1] == await store.load_service("b")


async def test_services_are_listed_page_by_page(store: Store) -> None:
    names = ["a", "a-b", "a_b", "ab", "b"]
    for place, name in enumerate(names, start=1):
        await apply(store, make_spec(name, port=place))
    found: list[str] = []
    while page := await store.list_services(after=found[-1] if found else "", limit=2):
        assert len(page) <= 2
        assert list(page) == [await store.load_service(record.name) for record in page]
        found += [record.name for record in page]
    assert sorted(found) == sorted(names), "each once, in whichever order the database has"
    assert len(await store.list_services(after="a")) == 4
    await store.delete_service("ab", expected=None, by="ada", why="", now=NOW)
    assert [record.name for record in await store.list_services(limit=9, only=["ab", "b"])] == ["b"]
    assert sorted(record.name for record in await store.list_services(limit=9)) == sorted({*names} - {"ab"})


async def test_a_revision_replaces_the_one_that_was_expected_or_none(store: Store) -> None:
    spec = make_spec()
    with pytest.raises(PreconditionFailedError, match="service 'colorize' is at revision 0, not 1; read it again"):
        await store.apply(spec, by="ada", why="", now=NOW, expected=1)
    assert (await store.apply(spec, by="ada", why="", now=NOW, expected=0))[1]
    other = dataclasses.replace(spec, domains=("a.example.org",))
    for expected in (0, 2):
        with pytest.raises(PreconditionFailedError):
            await store.apply(other, by="ada", why="", now=NOW, expected=expected)
    assert (await store.apply(other, by="ada", why="", now=NOW, expected=1))[0].number == 2


# -- what two services may not share -----------------------------------------------------------------------------------

OTHER = make_spec("other", port=9090)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"listener": Listener("colorize_listener", "127.0.0.1", 9090)}, "listener.name: 'colorize_listener' belongs"),
        ({"listener": Listener("l", "127.0.0.1", 8080)}, "listener.port: 127.0.0.1:8080 belongs to service 'colorize'"),
        ({"listener": Listener("l", "0.0.0.0", 8080)}, "listener.port"),
        ({"listener": Listener("l", "::", 8080)}, "listener.port"),
        ({"route_config": "colorize_routes"}, "route_config: 'colorize_routes' belongs"),
        ({"versions": (make_version("v1"), make_version("v2"))}, "versions.cluster: 'colorize_v1' belongs"),
    ],
)
async def test_what_another_service_owns_is_refused(store: Store, change: dict[str, object], words: str) -> None:
    await apply(store, make_spec())
    with pytest.raises(ConflictError, match=words):
        await apply(store, dataclasses.replace(OTHER, **change))  # type: ignore[arg-type] # any one field
    assert [record.name for record in await store.list_services()] == ["colorize"]
    assert await store.history("other") == ()


async def test_another_address_on_the_same_port_is_free(store: CatalogueStore) -> None:
    await apply(store, make_spec())
    await apply(store, dataclasses.replace(OTHER, listener=Listener("l", "127.0.0.2", 8080)))


async def test_what_a_good_revision_gave_up_is_free_but_not_what_may_be_served_again(store: CatalogueStore) -> None:
    await apply(store, make_spec())
    moved = await apply(store, make_spec(port=8081))
    with pytest.raises(ConflictError, match=r"listener\.port"):
        await apply(store, make_spec("other", port=8080))
    await store.mark_revisions({"colorize": moved}, RevisionStatus.GOOD, "", now=NOW)
    await apply(store, make_spec("other", port=8080))


async def test_what_only_a_rejected_revision_wanted_is_free(store: CatalogueStore) -> None:
    await apply(store, make_spec())
    moved = await apply(store, make_spec(port=8081))
    await store.mark_revisions({"colorize": moved}, RevisionStatus.REJECTED, "port in use", now=NOW)
    await apply(store, make_spec("other", port=8081))


# -- what a new revision must keep -------------------------------------------------------------------------------------


async def test_a_version_that_carries_traffic_must_stay(store: CatalogueStore) -> None:
    await apply(store, make_spec(split=make_split(v1=9500, v2=500)))
    with pytest.raises(ConflictError, match="versions: 'v2' carries 5 % of the traffic"):
        await apply(store, make_spec(versions=("v1", "v3")))
    assert (await store.load_service("colorize")).newest.number == 1


async def test_a_version_without_traffic_may_go_and_leaves_the_split(store: CatalogueStore) -> None:
    await apply(store, make_spec(split=make_split(v1=10_000, v2=0)))
    await apply(store, make_spec(versions=("v1", "v3")))
    assert (await store.load_service("colorize")).split == make_split(v1=10_000)


@pytest.mark.parametrize("kept", ["v1", "v2"])
async def test_a_version_that_a_rollout_moves_must_stay(store: Store, kept: str) -> None:
    await apply(store, make_spec())
    await store.start(make_new_rollout(), key=None, now=NOW)
    with pytest.raises(ConflictError, match=r"carries|rollout colorize-1"):
        await apply(store, make_spec(versions=(kept, "v3")))
    assert await apply(store, make_spec(versions=("v1", "v2", "v3"))) == 2


# -- the split ---------------------------------------------------------------------------------------------------------


async def test_the_split_is_replaced_and_audited(store: Store) -> None:
    await apply(store, make_spec())
    await store.set_split("colorize", make_split(v2=2500, v1=7500), by="bob", why="drill", now=NOW + seconds(1))
    assert (await store.load_service("colorize")).split == make_split(v2=2500, v1=7500)
    entry = (await store.history("colorize"))[-1]
    assert (entry.kind, entry.what, entry.by, entry.at) == ("audit", "set-split", "bob", NOW + seconds(1))
    assert entry.words == "the split is now v2 25 %, v1 75 %: drill"


async def test_a_split_of_something_unknown_or_unsound_is_refused(store: CatalogueStore) -> None:
    with pytest.raises(NotFoundError, match="service"):
        await store.set_split("colorize", make_split(v1=10_000), by="", why="", now=NOW)
    await apply(store, make_spec())
    with pytest.raises(NotFoundError, match="'v9'"):
        await store.set_split("colorize", make_split(v9=10_000), by="", why="", now=NOW)
    with pytest.raises(InvalidInputError, match="sum to 90 %"):
        await store.set_split("colorize", make_split(v1=9000), by="", why="", now=NOW)
    assert (await store.load_service("colorize")).split == make_split(v1=10_000)


async def test_a_rollout_owns_the_split(store: Store) -> None:
    await apply(store, make_spec())
    await store.start(make_new_rollout(), key=None, now=NOW)
    with pytest.raises(ConflictError, match="rollout colorize-1 owns the split"):
        await store.set_split("colorize", make_split(v2=10_000), by="", why="", now=NOW)


# -- what the fleet made of a revision ---------------------------------------------------------------------------------


async def test_a_rejected_revision_is_shown_but_the_one_before_it_served(store: CatalogueStore) -> None:
    await apply(store, make_spec())
    await store.mark_revisions({"colorize": 1}, RevisionStatus.GOOD, "", now=NOW)
    await apply(store, make_spec(port=8081))
    await store.mark_revisions({"colorize": 2}, RevisionStatus.REJECTED, "edge-1: bad port", now=NOW)
    record = await store.load_service("colorize")
    assert (record.newest.number, record.newest.status) == (2, RevisionStatus.REJECTED)
    assert record.newest.words == "edge-1: bad port"
    assert (record.served.number, record.served.status) == (1, RevisionStatus.GOOD)


async def test_good_stays_good(store: CatalogueStore) -> None:
    await apply(store, make_spec())
    await store.mark_revisions({"colorize": 1}, RevisionStatus.GOOD, "", now=NOW)
    await store.mark_revisions({"colorize": 1}, RevisionStatus.REJECTED, "too late", now=NOW)
    newest = (await store.load_service("colorize")).newest
    assert (newest.status, newest.words) == (RevisionStatus.GOOD, "")


async def test_marking_what_does_not_exist_changes_nothing(store: CatalogueStore) -> None:
    await apply(store, make_spec())
    await store.mark_revisions({"colorize": 7, "nobody": 1}, RevisionStatus.GOOD, "", now=NOW)
    assert (await store.load_service("colorize")).newest.status is RevisionStatus.PROPOSED


async def test_a_service_whose_only_revision_was_rejected_is_shown_and_not_served(store: Store) -> None:
    await apply(store, make_spec())
    await apply(store, make_spec("other", port=9090))
    await store.mark_revisions({"colorize": 1}, RevisionStatus.REJECTED, "no", now=NOW)
    assert (await store.load_service("colorize")).served.status is RevisionStatus.REJECTED
    desired = await store.load_desired()
    assert [service.revision.spec.name for service in desired.services] == ["other"]
