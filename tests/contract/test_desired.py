"""The one picture that snapshots are made from."""

import dataclasses

from controlplane.ports import Desired, DesiredService, RevisionStatus, Store
from controlplane.rollout.model import NO_STEP, Promoted, Shifting
from controlplane.traffic.model import Mirror
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


async def test_a_revision_on_trial_comes_with_the_one_before_it(store: Store) -> None:
    first, _ = await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.mark_revisions({"colorize": 1}, RevisionStatus.GOOD, "", now=NOW)
    careful = dataclasses.replace(
        make_spec(port=8081),
        groups=("eu", "us"),
        config_canary=seconds(60),
        mirror=Mirror("v2", 250),
        draw_header="x-draw",
    )
    second, _ = await store.apply(careful, by="ada", why="", now=NOW)
    (service,) = (await store.load_desired()).services
    assert (service.revision, service.on_trial) == (second, True)
    assert service.before == dataclasses.replace(first, status=RevisionStatus.GOOD)

    await store.mark_tried({"colorize": 2}, "ran on edge-1 for 60 s", now=NOW + seconds(61))
    (service,) = (await store.load_desired()).services
    assert (service.on_trial, service.before, service.revision.tried_at) == (False, None, NOW + seconds(61))
    assert service.revision.spec == careful
    (event,) = [entry for entry in await store.history("colorize") if entry.kind == "transition"]
    assert (event.before, event.after, event.words) == ("Proposed", "Tried", "revision 2: ran on edge-1 for 60 s")
    await store.mark_tried({"colorize": 2}, "again", now=NOW + seconds(99))
    assert (await store.load_desired()).services[0].revision.tried_at == NOW + seconds(61)


async def test_the_first_revision_on_trial_has_none_before_it(store: Store) -> None:
    await store.apply(dataclasses.replace(make_spec(), config_canary=seconds(60)), by="ada", why="", now=NOW)
    (service,) = (await store.load_desired()).services
    assert (service.on_trial, service.before) == (True, None)


async def test_a_revision_that_was_tried_comes_before_the_next_one_on_trial(store: Store) -> None:
    for port in (8081, 8082):
        careful = dataclasses.replace(make_spec(port=port), config_canary=seconds(60))
        await store.apply(careful, by="ada", why="", now=NOW)
        if port == 8081:
            await store.mark_tried({"colorize": 1}, "well", now=NOW)
    (service,) = (await store.load_desired()).services
    assert service.before is not None
    assert (service.revision.number, service.before.number) == (2, 1)


async def test_a_rejected_revision_is_history_of_its_service(store: Store) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.mark_revisions({"colorize": 1}, RevisionStatus.REJECTED, "edge-1: bad port", now=NOW)
    (event,) = [entry for entry in await store.history("colorize") if entry.kind == "transition"]
    assert (event.words, event.after, event.rollout) == ("revision 1 is rejected: edge-1: bad port", "Rejected", None)
