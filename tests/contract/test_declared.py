"""What documents declared, and the end of a service: on SQLite and on PostgreSQL."""

import dataclasses

import pytest

from controlplane.errors import ConflictError, NotFoundError, PreconditionFailedError
from controlplane.ports import RevisionStatus, Store
from controlplane.rollout.model import Promoted
from controlplane.rollout.waiting import WaitingEnd
from controlplane.traffic.declared import Declaration
from tests.builders import NOW, make_new_rollout, make_spec, make_split, seconds
from tests.contract.test_steering import ASKED, SPEC

PLAN = Declaration(
    kind="Plan",
    name="slow",
    service="",
    owner="photos",
    document={"spec": {"steps": []}},
    generation=1,
    by="ada",
    at=NOW,
)


async def delete(store: Store, *, expected: int | None = None) -> None:
    await store.delete_service("colorize", expected=expected, by="ada", why="old", now=NOW)


async def test_declarations_are_kept_replaced_and_forgotten(store: Store) -> None:
    version = dataclasses.replace(PLAN, kind="Version", name="colorize/v1", service="colorize")
    await store.save_declarations([version, PLAN], removed=[])
    assert await store.load_declarations() == (PLAN, version)
    newer = dataclasses.replace(PLAN, generation=2, owner="", document={"spec": {"steps": []}})
    await store.save_declarations([newer], removed=[version.key, ("SLO", "never")])
    assert await store.load_declarations() == (newer,)


async def test_an_apply_that_expects_another_revision_changes_nothing(store: Store) -> None:
    spec = make_spec()
    with pytest.raises(PreconditionFailedError):
        await store.apply_declared(spec, expected=1, by="ada", why="", now=NOW)
    revision, changed = await store.apply_declared(spec, expected=0, by="ada", why="", now=NOW)
    assert (revision.number, changed) == (1, True)
    with pytest.raises(PreconditionFailedError, match="is at revision 1, not 0"):
        await store.apply_declared(make_spec(port=9), expected=0, by="ada", why="", now=NOW)
    assert (await store.load_service("colorize")).newest.spec == spec


async def test_starts_that_wait_end_with_their_service_and_do_not_come_back_with_it(store: Store) -> None:
    await store.apply(SPEC, by="ada", why="", now=NOW)
    waiting = await store.line_up(dataclasses.replace(ASKED, not_before=NOW + seconds(60)), key=None, now=NOW)
    await delete(store)
    assert (await store.load_agenda(since=NOW)).waiting == ()
    ended = await store.load_waiting(waiting.id)
    assert (ended.end, ended.words) == (WaitingEnd.DROPPED, "the service was deleted")
    told = [entry.words for entry in await store.history("colorize", limit=2)]
    assert f"gave up the start of {waiting.id} to v3: the service was deleted" in told
    await store.apply(SPEC, by="ada", why="", now=NOW)
    assert (await store.load_agenda(since=NOW)).waiting == ()


async def test_a_deleted_service_is_served_no_more_and_its_history_is_kept(store: Store) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.apply(make_spec("desk", port=9), by="ada", why="", now=NOW)
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    mine = dataclasses.replace(PLAN, kind="Service", name="colorize", service="colorize")
    await store.save_declarations([mine, PLAN], removed=[])
    with pytest.raises(ConflictError, match="rollout colorize-1 of 'colorize' is active"):
        await delete(store)
    await store.save(dataclasses.replace(rollout, state=Promoted(NOW, "done")), now=NOW)
    with pytest.raises(PreconditionFailedError):
        await delete(store, expected=7)
    await delete(store, expected=1)
    assert [service.revision.spec.name for service in (await store.load_desired()).services] == ["desk"]
    assert [record.name for record in await store.list_services()] == ["desk"]
    assert await store.load_declarations() == (PLAN,)
    for refused in (
        store.load_service("colorize"),
        delete(store),
        store.set_split("colorize", make_split(v1=10_000), by="ada", why="", now=NOW),
        store.start(make_new_rollout(), key=None, now=NOW),
    ):
        with pytest.raises(NotFoundError, match=r"known: desk"):
            await refused
    assert (await store.history("colorize"))[-1].words == "deleted; its history is kept: old"
    assert (await store.load(rollout.id)).candidate == "v2"


async def test_what_a_deleted_service_claimed_is_free(store: Store) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    with pytest.raises(ConflictError, match="belongs to service 'colorize'"):
        await store.apply(make_spec("desk"), by="ada", why="", now=NOW)
    await delete(store)
    await store.apply(make_spec("desk"), by="ada", why="", now=NOW)


async def test_a_service_that_is_declared_again_goes_on_counting_and_never_falls_back_before_its_end(
    store: Store,
) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.mark_revisions({"colorize": 1}, RevisionStatus.GOOD, "", now=NOW)
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    await store.save(dataclasses.replace(rollout, state=Promoted(NOW, "done")), split=make_split(v2=10_000), now=NOW)
    await delete(store)
    revision, changed = await store.apply(make_spec(), by="ada", why="", now=NOW)
    assert (revision.number, changed) == (2, True)
    record = await store.load_service("colorize")
    assert record.split == make_split(v1=10_000), "it begins with its first split"
    await store.mark_revisions({"colorize": 2}, RevisionStatus.REJECTED, "no", now=NOW)
    assert (await store.load_desired()).services == ()
    assert (await store.start(make_new_rollout(), key=None, now=NOW)).id == "colorize-2"
