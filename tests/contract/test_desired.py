"""The one picture that snapshots are made from."""

import dataclasses

from controlplane.ports import Desired, DesiredService, RevisionStatus, Store
from controlplane.rollout.model import NO_STEP, Promoted, Shifting
from tests.builders import NOW, make_new_rollout, make_spec, make_split, seconds


async def test_nothing_is_desired_at_first(store: Store) -> None:
    assert await store.load_desired() == Desired(services=(), addresses={})


async def test_services_come_with_split_and_active_rollout(store: Store) -> None:
    other, _ = await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    revision, _ = await store.apply(make_spec(), by="ada", why="", now=NOW)
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    rollout = await store.save(
        dataclasses.replace(rollout, state=Shifting(step=0, since=NOW, came_from=NO_STEP)), now=NOW
    )
    await store.save_addresses({"worker.example": ("10.0.0.1",)}, now=NOW)
    assert await store.load_desired() == Desired(
        services=(
            DesiredService(revision, make_split(v1=10_000), rollout),
            DesiredService(other, make_split(v1=10_000), None),
        ),
        addresses={"worker.example": ("10.0.0.1",)},
    )
    done = dataclasses.replace(rollout, state=Promoted(at=NOW, words=""))
    await store.save(done, split=make_split(v2=10_000, v1=0), now=NOW)
    assert (await store.load_desired()).services[0] == DesiredService(revision, make_split(v2=10_000, v1=0), None)


async def test_the_newest_revision_that_was_not_rejected_is_desired(store: Store) -> None:
    for port in (8080, 8081, 8082, 8083):
        await store.apply(make_spec(port=port), by="ada", why="", now=NOW)

    async def desired() -> tuple[int, int]:
        (service,) = (await store.load_desired()).services
        return service.revision.number, service.revision.spec.listener.port

    assert await desired() == (4, 8083)
    await store.mark_revisions({"colorize": 1}, RevisionStatus.GOOD, "", now=NOW)
    await store.mark_revisions({"colorize": 4}, RevisionStatus.REJECTED, "no", now=NOW)
    assert await desired() == (3, 8082)
    for number in (2, 3):
        await store.mark_revisions({"colorize": number}, RevisionStatus.REJECTED, "no", now=NOW)
    assert await desired() == (1, 8080)


async def test_a_status_changes_in_a_picture_that_was_loaded_before(store: Store) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.load_desired()
    await store.mark_revisions({"colorize": 1}, RevisionStatus.GOOD, "", now=NOW)
    assert (await store.load_desired()).services[0].revision.status is RevisionStatus.GOOD


async def test_addresses_are_replaced_whole_and_keep_their_order(store: Store) -> None:
    first = {"a.example": ("10.0.0.2", "10.0.0.1"), "b.example": ("::1",), "c.example": ()}
    await store.save_addresses(first, now=NOW)
    assert (await store.load_desired()).addresses == first
    second = {"b.example": ("::2",), "a.example": ("10.0.0.2", "10.0.0.1")}
    await store.save_addresses(second, now=NOW + seconds(5))
    assert (await store.load_desired()).addresses == second
    await store.save_addresses({}, now=NOW)
    assert (await store.load_desired()).addresses == {}
