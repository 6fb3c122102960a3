"""Starts that wait, ways back, freezes: each a row, whatever the database, and each begun once."""

import asyncio
import contextlib
import dataclasses

import pytest

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, StaleWriteError
from controlplane.ports import NewRollout, Rollout, RolloutId, Store
from controlplane.rollout.model import Abort, Baking, Plan, Preparing, Promoted, RollbackCause, RolledBack, Step, Undo
from controlplane.rollout.waiting import MAX_WAITING, WaitingEnd, WaitingStart
from controlplane.store import SqlStore
from controlplane.wake import Topic
from tests.builders import DEFAULT_SLOS, NOW, make_new_rollout, make_plan, make_spec, make_split, seconds
from tests.contract.conftest import Ears

SPEC = make_spec(versions=("v1", "v2", "v3"))
ASKED = WaitingStart(
    id="",
    service="colorize",
    candidate="v3",
    baseline="",
    plan=None,
    supersede=False,
    only_after_success=False,
    again=False,
    after="",
    not_before=None,
    by="bob",
    why="newer",
    at=NOW,
)


@pytest.fixture
async def rollout(store: Store) -> Rollout:
    await store.apply(SPEC, by="ada", why="", now=NOW)
    return await store.start(make_new_rollout(), key=None, now=NOW)


def new_rollout(waiting: WaitingStart) -> NewRollout:
    return NewRollout("colorize", waiting.candidate, make_plan(), DEFAULT_SLOS, waiting.by, waiting.why)


async def end(store: Store, rollout: Rollout, *, promoted: bool = False) -> Rollout:
    state = Promoted(NOW, "") if promoted else RolledBack(NOW, RollbackCause.SLO_BREACH, "errors 20 % > 1 %")
    split = make_split(**{rollout.candidate if promoted else rollout.baseline: 10_000})
    return await store.save(dataclasses.replace(rollout, state=state), split=split, now=NOW)


async def last_words(store: Store) -> str:
    return (await store.history("colorize"))[-1].words


# -- the line ----------------------------------------------------------------------------------------------------------


async def test_a_start_waits_under_the_id_of_its_rollout_to_come(store: Store, rollout: Rollout, ears: Ears) -> None:
    await ears.heard()
    plan = Plan((Step(10_000),))
    first = await store.line_up(dataclasses.replace(ASKED, plan=plan), key=None, now=NOW)
    second = await store.line_up(dataclasses.replace(ASKED, not_before=NOW + seconds(60)), key=None, now=NOW)
    assert Topic.COMMANDS in await ears.heard()
    assert (first.id, first.after, second.id, second.after) == ("colorize-2", rollout.id, "colorize-3", "colorize-2")
    assert (await store.load_agenda(since=NOW)).waiting == (first, second)
    assert await store.load_waiting("colorize-2") == first
    words = [(entry.what, entry.by, entry.words) for entry in (await store.history("colorize"))[-2:]]
    assert words == [
        ("queue", "bob", "start of colorize-2 to v3 queued behind colorize-1: newer"),
        ("queue", "bob", "start of colorize-3 to v3 scheduled for 2026-11-22 12:31:15 UTC: newer"),
    ]
    await end(store, rollout)
    third = await store.start(make_new_rollout(), key=None, now=NOW)
    assert third.id == "colorize-4", "the numbers of those that wait are kept for them"


async def test_a_start_of_something_unknown_does_not_wait(store: Store) -> None:
    with pytest.raises(NotFoundError, match="service 'colorize'"):
        await store.line_up(ASKED, key=None, now=NOW)
    await store.apply(SPEC, by="ada", why="", now=NOW)
    with pytest.raises(NotFoundError, match="'v9' does not exist"):
        await store.line_up(dataclasses.replace(ASKED, candidate="v9"), key=None, now=NOW)
    with pytest.raises(NotFoundError, match="'colorize-1'"):
        await store.load_waiting("colorize-1")


async def test_the_same_key_waits_once(store: Store, rollout: Rollout) -> None:
    first = await store.line_up(ASKED, key="k", now=NOW)
    assert await store.line_up(ASKED, key="k", now=NOW + seconds(5)) == first
    with pytest.raises(ConflictError, match="idempotency key 'k' was used for 'start colorize v3'"):
        await store.line_up(dataclasses.replace(ASKED, candidate="v2"), key="k", now=NOW)
    assert len((await store.load_agenda(since=NOW)).waiting) == 1
    assert rollout.id == "colorize-1"


async def test_no_more_than_a_few_wait(store: Store, rollout: Rollout) -> None:
    for _ in range(MAX_WAITING):
        await store.line_up(ASKED, key=None, now=NOW)
    with pytest.raises(ConflictError, match=r"10 starts of 'colorize' wait already; cancel one: hueshift queue"):
        await store.line_up(ASKED, key=None, now=NOW)
    newest = await store.line_up(dataclasses.replace(ASKED, supersede=True), key=None, now=NOW)
    assert (await store.load_agenda(since=NOW)).waiting == (newest,), "it takes the place of those that waited"
    first = await store.load_waiting("colorize-2")
    assert (first.end, first.words) == (WaitingEnd.DROPPED, f"superseded by {newest.id}")
    assert rollout.id == "colorize-1"


async def test_what_runs_is_not_superseded_by_itself(store: Store, rollout: Rollout) -> None:
    with pytest.raises(ConflictError, match="rollout colorize-1 moves 'colorize' to 'v2' already"):
        await store.line_up(dataclasses.replace(ASKED, candidate="v2", supersede=True), key=None, now=NOW)
    assert rollout.candidate == "v2"


async def test_a_wait_ends_in_one_rollout(store: Store, rollout: Rollout) -> None:
    waiting = await store.line_up(ASKED, key=None, now=NOW)
    with pytest.raises(StaleWriteError, match="a rollout of colorize is active"):
        await store.begin(waiting, new_rollout(waiting), now=NOW)
    await end(store, rollout)
    begun = await store.begin(waiting, new_rollout(waiting), now=NOW + seconds(9))
    assert (begun.id, begun.candidate, begun.by, begun.started_at) == ("colorize-2", "v3", "bob", NOW + seconds(9))
    with pytest.raises(StaleWriteError, match="does not wait any more"):
        await store.begin(waiting, new_rollout(waiting), now=NOW)
    assert (await store.load_waiting("colorize-2")).end is WaitingEnd.STARTED
    assert (await store.load_agenda(since=NOW)).waiting == ()
    assert isinstance((await store.load(RolloutId("colorize-2"))).state, Preparing)


async def test_two_leaders_begin_it_once(store: Store, other: SqlStore, rollout: Rollout) -> None:
    waiting = await store.line_up(ASKED, key=None, now=NOW)
    await end(store, rollout)
    begun: list[Rollout] = []

    async def begin(mine: Store) -> None:
        with contextlib.suppress(StaleWriteError):
            begun.append(await mine.begin(waiting, new_rollout(waiting), now=NOW))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(begin(store))
        tasks.create_task(begin(other))
    assert len(begun) == 1
    assert [each.id for each in await store.list_rollouts("colorize")] == ["colorize-2", "colorize-1"]


async def test_a_rollout_that_cannot_begin_leaves_the_wait_as_it_is(store: Store, rollout: Rollout) -> None:
    waiting = await store.line_up(ASKED, key=None, now=NOW)
    await end(store, rollout)
    with pytest.raises(ConflictError, match="'v1' already has all traffic"):
        await store.begin(waiting, dataclasses.replace(new_rollout(waiting), candidate="v1"), now=NOW)
    assert (await store.load_waiting(waiting.id)).end is None
    await store.drop(waiting, words="no use", now=NOW)
    await store.drop(waiting, words="twice", now=NOW)
    assert (await store.load_waiting(waiting.id)).words == "no use"
    assert await last_words(store) == "gave up the start of colorize-2 to v3: no use"
    assert await store.load_misfortune(waiting.id) == "colorize-2 was dropped"
    assert await store.load_misfortune(rollout.id) == "colorize-1 was rolled back"
    assert await store.load_misfortune("nobody-1") == ""


async def test_a_wait_is_cancelled_by_its_id_or_all_of_a_service(store: Store, rollout: Rollout) -> None:
    first, second, third = [await store.line_up(ASKED, key=None, now=NOW) for _ in range(3)]
    assert await store.cancel("colorize", second.id, by="eve", why="wrong one", now=NOW) == (second,)
    assert await last_words(store) == "start of colorize-3 to v3 cancelled: wrong one"
    with pytest.raises(NotFoundError, match="'colorize-3'"):
        await store.cancel("colorize", second.id, by="eve", why="", now=NOW)
    assert await store.cancel("colorize", None, by="eve", why="", now=NOW) == (first, third)
    assert await store.cancel("colorize", None, by="eve", why="", now=NOW) == ()
    with pytest.raises(NotFoundError, match="service"):
        await store.cancel("nobody", None, by="eve", why="", now=NOW)
    assert rollout.id == "colorize-1"


# -- undo --------------------------------------------------------------------------------------------------------------


async def undo(store: Store, to: str = "", *, key: str | None = None) -> tuple[str, str, bool]:
    done = await store.undo("colorize", to, by="eve", why="grey", key=key, now=NOW)
    return done.rollout, done.version, done.command is not None


async def test_while_a_rollout_runs_an_undo_is_a_command_to_it(store: Store, rollout: Rollout) -> None:
    with pytest.raises(ConflictError, match="nothing to undo: rollout colorize-1 has moved no traffic yet"):
        await undo(store)
    await store.save(dataclasses.replace(rollout, state=Baking(0, NOW)), now=NOW)
    with pytest.raises(ConflictError, match="its undo gives back to v1, not v3"):
        await undo(store, "v3")
    assert await undo(store, key="k") == ("colorize-1", "v1", True)
    assert await undo(store, key="k") == ("colorize-1", "v1", True)
    (pending,) = await store.load_pending(rollout.id)
    assert pending.command == Undo("eve", "grey")
    assert await last_words(store) == "undo asked for: grey"
    with pytest.raises(ConflictError, match="idempotency key 'k' was used for 'undo colorize'"):
        await store.add_command("colorize", Abort("eve", ""), key="k", now=NOW)


async def test_no_rollout_ends_over_a_command_that_came_in_time(store: Store, rollout: Rollout) -> None:
    baking = await store.save(dataclasses.replace(rollout, state=Baking(0, NOW)), now=NOW)
    await undo(store)
    with pytest.raises(StaleWriteError, match="was asked for something before it ended"):
        await end(store, baking, promoted=True)
    (pending,) = await store.load_pending(rollout.id)
    undone = dataclasses.replace(baking, state=RolledBack(NOW, RollbackCause.UNDONE, "eve"))
    await store.save(undone, handled=(pending.number,), now=NOW)
    assert await store.load_active() == ()


async def test_after_a_promotion_an_undo_is_a_rollout_straight_back(store: Store, rollout: Rollout) -> None:
    await end(store, rollout, promoted=True)
    assert await undo(store, key="k") == ("colorize-2", "v1", False)
    assert await undo(store, key="k") == ("colorize-2", "v1", False)
    back = await store.load(RolloutId("colorize-2"))
    assert (back.baseline, back.candidate, back.plan.direct) == ("v2", "v1", True)
    assert [step.weight_bp for step in back.plan.steps] == [10_000]
    asked = (await store.history("colorize"))[-2]
    assert (asked.kind, asked.what, asked.words) == (
        "audit",
        "undo",
        "rollout colorize-2 from v2 back to v1 started: grey",
    )
    with pytest.raises(ConflictError, match="rollout colorize-2 is an undo itself"):
        await undo(store)
    with pytest.raises(ConflictError, match="is active"):
        await store.start(make_new_rollout(), key=None, now=NOW)


async def test_an_undo_goes_where_it_can(store: Store, rollout: Rollout) -> None:
    with pytest.raises(NotFoundError, match="service"):
        await store.undo("nobody", "", by="eve", why="", key=None, now=NOW)
    await end(store, rollout)
    with pytest.raises(ConflictError, match="nothing to undo: no rollout of 'colorize' was promoted yet"):
        await undo(store)
    again = await store.start(make_new_rollout(), key="s", now=NOW)
    await end(store, again, promoted=True)
    with pytest.raises(ConflictError, match="idempotency key 's' was used for 'start colorize v2'"):
        await undo(store, key="s")
    bare = [dataclasses.replace(each, endpoints=()) if each.name == "v1" else each for each in SPEC.versions]
    await store.apply(dataclasses.replace(SPEC, versions=tuple(bare)), by="ada", why="", now=NOW)
    with pytest.raises(InvalidInputError, match=r"versions\.v1\.endpoints: is empty"):
        await undo(store)


async def test_a_failure_is_found_by_version(store: Store, rollout: Rollout) -> None:
    assert await store.load_failure("colorize", "v2") is None
    await end(store, rollout)
    failure = await store.load_failure("colorize", "v2")
    assert failure is not None
    assert (failure.rollout, failure.words) == ("colorize-1", "v2 was rolled back in colorize-1: errors 20 % > 1 %")
    assert await store.load_failure("colorize", "v3") is None


# -- everything --------------------------------------------------------------------------------------------------------


async def test_one_stop_aborts_every_rollout_and_every_wait_but_no_undo(store: Store, rollout: Rollout) -> None:
    await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    other = await store.start(make_new_rollout("other"), key=None, now=NOW)
    await store.apply(make_spec("third", port=9091), by="ada", why="", now=NOW)
    third = await store.start(make_new_rollout("third"), key=None, now=NOW)
    await end_of(store, third)
    way_back = await store.undo("third", "", by="eve", why="", key=None, now=NOW)
    waiting = await store.line_up(ASKED, key=None, now=NOW)
    stopped = await store.stop_all(by="eve", why="fire", now=NOW)
    assert (stopped.rollouts, stopped.cancelled, stopped.left) == (
        (rollout.id, other.id),
        (waiting.id,),
        (way_back.rollout,),
    )
    for each in (rollout, other):
        assert [pending.command for pending in await store.load_pending(each.id)] == [Abort("eve", "fire")]
    assert await store.load_pending(way_back.rollout) == ()
    assert (await store.load_agenda(since=NOW)).waiting == ()


async def end_of(store: Store, rollout: Rollout) -> None:
    """Promote a rollout of any service."""
    done = dataclasses.replace(rollout, state=Promoted(NOW, ""))
    await store.save(done, split=make_split(v2=10_000), now=NOW)


async def test_a_freeze_keeps_starts_away_until_it_ends(store: Store) -> None:
    await store.apply(SPEC, by="ada", why="", now=NOW)
    freeze = await store.freeze("colorize", until=NOW + seconds(60), by="ada", why="sale", now=NOW)
    assert (await store.load_agenda(since=NOW)).freezes == (freeze,)
    assert await last_words(store) == "colorize is frozen until 2026-11-22 12:31 UTC: sale"
    with pytest.raises(ConflictError, match=r"colorize is frozen until .* by ada \(sale\); let it wait \(--queue\)"):
        await store.start(make_new_rollout(), key=None, now=NOW)
    waiting = await store.line_up(ASKED, key=None, now=NOW)
    with pytest.raises(StaleWriteError, match="colorize is frozen"):
        await store.begin(waiting, new_rollout(waiting), now=NOW)
    assert (await store.begin(waiting, new_rollout(waiting), now=NOW + seconds(60))).id == waiting.id


async def test_a_freeze_takes_the_place_of_the_one_before_and_is_ended_by_hand(store: Store) -> None:
    await store.apply(SPEC, by="ada", why="", now=NOW)
    await store.freeze("colorize", until=NOW + seconds(60), by="ada", why="", now=NOW)
    later = NOW + seconds(5)
    second = await store.freeze("colorize", until=NOW + seconds(90), by="bob", why="", now=later)
    assert (await store.load_agenda(since=later)).freezes == (second,)
    assert len((await store.load_agenda(since=NOW)).freezes) == 2, "what was is still known"
    assert await store.unfreeze("colorize", by="eve", why="over", now=later) == second
    assert await last_words(store) == "the freeze of colorize was ended: over"
    assert (await store.load_agenda(since=later)).freezes == ()
    with pytest.raises(ConflictError, match="colorize is not frozen"):
        await store.unfreeze("colorize", by="eve", why="", now=later)
    with pytest.raises(NotFoundError, match="service"):
        await store.freeze("nobody", until=NOW + seconds(90), by="bob", why="", now=later)


async def test_a_freeze_of_everything_is_in_every_history(store: Store) -> None:
    await store.apply(SPEC, by="ada", why="", now=NOW)
    await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    freeze = await store.freeze("", until=NOW + seconds(60), by="ada", why="sale", now=NOW)
    for service in ("colorize", "other"):
        assert (await store.history(service))[-1].words == "everything is frozen until 2026-11-22 12:31 UTC: sale"
        with pytest.raises(ConflictError, match="end the freeze: hueshift unfreeze --all"):
            await store.start(make_new_rollout(service), key=None, now=NOW)
    with pytest.raises(ConflictError, match="has no freeze of its own: everything is frozen"):
        await store.unfreeze("other", by="ada", why="", now=NOW)
    assert await store.unfreeze("", by="ada", why="", now=NOW) == freeze
    with pytest.raises(ConflictError, match="everything is not frozen"):
        await store.unfreeze("", by="ada", why="", now=NOW)
