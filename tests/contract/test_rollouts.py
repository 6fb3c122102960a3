"""Rollouts, the commands that wait for them, and what happened."""

import dataclasses

import pytest

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, StaleWriteError
from controlplane.ports import Occurrence, RevisionStatus, Rollout, RolloutId, Store
from controlplane.rollout.model import (
    NO_STEP,
    Abort,
    Baking,
    Command,
    Pause,
    PauseCause,
    Paused,
    Preparing,
    Promote,
    Promoted,
    Resume,
    RollbackCause,
    RolledBack,
    RollingBack,
    Shifting,
    State,
)
from tests.builders import DEFAULT_SLOS, NOW, make_new_rollout, make_plan, make_spec, make_split, seconds

ENDED = RolledBack(at=NOW + seconds(60), cause=RollbackCause.SLO_BREACH, words="errors 20 % > 1 %")
STATES: tuple[State, ...] = (
    Preparing(since=NOW),
    Shifting(step=0, since=NOW, came_from=NO_STEP),
    Shifting(step=3, since=NOW, came_from=2, probing=True, came_probing=True),
    Baking(step=2, since=NOW, probing=True),
    Paused(step=NO_STEP, since=NOW, cause=PauseCause.NACK, words="edge-1 refused RDS: 坏", next_step=0),
    RollingBack(since=NOW, cause=RollbackCause.NEVER_READY, words="no worker"),
    Promoted(at=NOW, words="all evidence is good"),
    ENDED,
)


@pytest.fixture
async def rollout(store: Store) -> Rollout:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    return await store.start(make_new_rollout(), key=None, now=NOW)


async def end(store: Store, rollout: Rollout) -> Rollout:
    return await store.save(dataclasses.replace(rollout, state=ENDED), now=NOW)


# -- start -------------------------------------------------------------------------------------------------------------


async def test_a_rollout_starts_in_preparing_with_everything_frozen_into_it(store: Store) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    plan = make_plan(1, 10_000, hold=seconds(0.1))
    started = await store.start(make_new_rollout(plan=plan), key=None, now=NOW)
    assert started == Rollout(
        id=RolloutId("colorize-1"),
        service="colorize",
        baseline="v1",
        candidate="v2",
        plan=plan,
        slos=DEFAULT_SLOS,
        state=Preparing(since=NOW),
        version=1,
        started_at=NOW,
        deadline_at=NOW + plan.deadline,
        by="ada",
        why="better blues",
    )
    assert await store.load(started.id) == await store.load_latest("colorize") == started
    assert await store.load_active() == await store.list_rollouts() == (started,)


async def test_a_start_is_in_the_history_with_who_and_why(store: Store, rollout: Rollout) -> None:
    asked, began = (await store.history("colorize"))[-2:]
    assert (asked.kind, asked.what, asked.by, asked.rollout) == ("audit", "start", "ada", rollout.id)
    assert asked.words == "rollout colorize-1 from v1 to v2 started: better blues"
    assert (began.kind, began.before, began.after, began.rollout) == ("transition", "", "Preparing", rollout.id)
    assert began.number > asked.number


async def test_only_one_rollout_of_a_service_is_active(store: Store, rollout: Rollout) -> None:
    with pytest.raises(ConflictError, match="rollout colorize-1 of 'colorize' is active"):
        await store.start(make_new_rollout(), key=None, now=NOW)
    await end(store, rollout)
    second = await store.start(make_new_rollout(), key=None, now=NOW + seconds(90))
    assert second.id == "colorize-2"
    assert await store.load_active() == (second,)
    assert await store.load_latest("colorize") == second
    assert [listed.id for listed in await store.list_rollouts()] == ["colorize-2", "colorize-1"]


async def test_services_do_not_wait_for_each_other(store: Store, rollout: Rollout) -> None:
    await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    other = await store.start(make_new_rollout("other"), key=None, now=NOW + seconds(1))
    assert await store.load_active() == (rollout, other)
    assert await store.list_rollouts("other") == (other,)
    assert await store.list_rollouts(limit=1) == (other,)
    assert await store.load_latest_of(["other", "colorize", "nobody"]) == {"other": other, "colorize": rollout}
    assert await store.load_latest_of([]) == {}


async def test_rollouts_of_a_service_are_listed_page_by_page(store: Store, rollout: Rollout) -> None:
    await end(store, rollout)
    second = await store.start(make_new_rollout(), key=None, now=NOW + seconds(90))
    await end(store, second)
    third = await store.start(make_new_rollout(), key=None, now=NOW + seconds(90))
    assert await store.list_rollouts("colorize", limit=1) == (third,)
    assert [each.id for each in await store.list_rollouts("colorize", before=third.id)] == [second.id, rollout.id]
    assert [each.id for each in await store.list_rollouts("colorize", before=third.id, limit=1)] == [second.id]
    assert await store.list_rollouts("colorize", before=rollout.id) == ()
    assert await store.list_rollouts("colorize", before=RolloutId("other-1")) == ()
    assert await store.load_latest_of(["colorize"]) == {"colorize": third}


async def test_a_start_of_something_unknown_is_refused(store: Store) -> None:
    with pytest.raises(NotFoundError, match="service 'colorize'"):
        await store.start(make_new_rollout(), key=None, now=NOW)
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    with pytest.raises(NotFoundError, match=r"'v9' does not exist \(known: v1, v2\)"):
        await store.start(make_new_rollout(candidate="v9"), key=None, now=NOW)
    assert await store.load_latest("colorize") is None


async def test_a_version_of_a_rejected_revision_cannot_start(store: Store) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.apply(make_spec(versions=("v1", "v2", "v3")), by="ada", why="", now=NOW)
    await store.mark_revisions({"colorize": 2}, RevisionStatus.REJECTED, "no", now=NOW)
    with pytest.raises(NotFoundError, match="'v3'"):
        await store.start(make_new_rollout(candidate="v3"), key=None, now=NOW)


@pytest.mark.parametrize(
    ("weights", "candidate", "baseline"),
    [
        ({"v1": 10_000}, "v2", "v1"),
        ({"v1": 0, "v2": 10_000}, "v1", "v2"),
        ({"v1": 9500, "v2": 500}, "v2", "v1"),
        ({"v1": 9500, "v2": 500}, "v1", "v2"),
        ({"v3": 0, "v1": 10_000, "v2": 0}, "v2", "v1"),
    ],
)
async def test_the_baseline_is_the_other_version_with_traffic(
    store: Store, weights: dict[str, int], candidate: str, baseline: str
) -> None:
    spec = make_spec(versions=("v1", "v2", "v3"), split=make_split(**weights))
    await store.apply(spec, by="ada", why="", now=NOW)
    assert (await store.start(make_new_rollout(candidate=candidate), key=None, now=NOW)).baseline == baseline


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"v1": 0, "v2": 10_000}, "'v2' already has all traffic of 'colorize'"),
        ({"v1": 5000, "v3": 5000}, "gives traffic to v1 and v3 besides 'v2'"),
    ],
)
async def test_a_split_without_one_clear_baseline_is_refused(store: Store, weights: dict[str, int], words: str) -> None:
    spec = make_spec(versions=("v1", "v2", "v3"), split=make_split(**weights))
    await store.apply(spec, by="ada", why="", now=NOW)
    with pytest.raises(ConflictError, match=words):
        await store.start(make_new_rollout(), key=None, now=NOW)
    assert await store.load_active() == ()


async def test_the_version_whose_traffic_moves_can_be_named(store: Store) -> None:
    spec = make_spec(versions=("v1", "v2", "v3"), split=make_split(v1=4000, v3=6000))
    await store.apply(spec, by="ada", why="", now=NOW)
    with pytest.raises(ConflictError, match="'v4' has no traffic of 'colorize' to give; versions that have: v1, v3"):
        await store.start(dataclasses.replace(make_new_rollout(), baseline="v4"), key=None, now=NOW)
    with pytest.raises(ConflictError, match="'v2' has no traffic"):
        await store.start(dataclasses.replace(make_new_rollout(), baseline="v2"), key=None, now=NOW)
    started = await store.start(dataclasses.replace(make_new_rollout(), baseline="v1"), key=None, now=NOW)
    assert (started.baseline, started.candidate) == ("v1", "v2")


# -- idempotency -------------------------------------------------------------------------------------------------------


async def test_the_same_key_starts_once_and_returns_the_first(store: Store) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    first = await store.start(make_new_rollout(), key="k", now=NOW)
    assert await store.start(make_new_rollout(), key="k", now=NOW + seconds(5)) == first
    ended = await end(store, first)
    assert await store.start(make_new_rollout(), key="k", now=NOW + seconds(90)) == ended
    assert await store.load_active() == ()
    assert len(await store.history("colorize")) == 3


async def test_a_key_that_was_refused_may_be_used_again(store: Store, rollout: Rollout) -> None:
    with pytest.raises(ConflictError):
        await store.start(make_new_rollout(), key="k", now=NOW)
    await end(store, rollout)
    assert (await store.start(make_new_rollout(), key="k", now=NOW)).id == "colorize-2"


async def test_the_same_key_asks_once(store: Store, rollout: Rollout) -> None:
    first = await store.add_command("colorize", Pause("ada", "lunch"), key="k", now=NOW)
    assert await store.add_command("colorize", Pause("ada", "lunch"), key="k", now=NOW + seconds(1)) == first
    await store.save(dataclasses.replace(rollout, state=ENDED), handled=(first.number,), now=NOW)
    assert await store.add_command("colorize", Pause("ada", "lunch"), key="k", now=NOW + seconds(2)) == first
    assert await store.load_pending(rollout.id) == ()


@pytest.mark.parametrize("command", [Abort("ada", ""), Promote("ada", "", full=True)])
async def test_a_key_of_another_request_is_refused(store: Store, rollout: Rollout, command: Command) -> None:
    await store.add_command("colorize", Promote("ada", ""), key="k", now=NOW)
    with pytest.raises(ConflictError, match="idempotency key 'k' was used for 'promote colorize'"):
        await store.add_command("colorize", command, key="k", now=NOW)
    with pytest.raises(ConflictError, match="idempotency key"):
        await store.start(make_new_rollout(), key="k", now=NOW)
    assert len(await store.load_pending(rollout.id)) == 1


# -- commands ----------------------------------------------------------------------------------------------------------

COMMANDS: tuple[Command, ...] = (
    Pause("ada", "lunch"),
    Resume("bob", ""),
    Promote("ada", "looks good"),
    Promote("ada", "in a hurry", full=True),
    Abort("eve", "wrong model"),
)


async def test_commands_wait_in_order_until_they_are_handled(store: Store, rollout: Rollout) -> None:
    asked = [await store.add_command("colorize", command, key=None, now=NOW) for command in COMMANDS]
    assert await store.load_pending(rollout.id) == tuple(asked)
    assert tuple(pending.command for pending in asked) == COMMANDS
    await store.save(rollout, handled=(asked[0].number, asked[2].number), now=NOW)
    left = await store.load_pending(rollout.id)
    assert [pending.command for pending in left] == [COMMANDS[1], COMMANDS[3], COMMANDS[4]]


async def test_a_command_is_audited_when_it_is_asked(store: Store, rollout: Rollout) -> None:
    await store.add_command("colorize", Promote("ada", "in a hurry", full=True), key=None, now=NOW + seconds(3))
    entry = (await store.history("colorize"))[-1]
    assert (entry.kind, entry.what, entry.by, entry.at) == ("audit", "promote", "ada", NOW + seconds(3))
    assert (entry.rollout, entry.words) == (rollout.id, "promote --full asked for: in a hurry")


async def test_a_command_without_a_rollout_is_refused(store: Store) -> None:
    with pytest.raises(NotFoundError, match="service"):
        await store.add_command("colorize", COMMANDS[0], key=None, now=NOW)
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    with pytest.raises(ConflictError, match="no rollout of 'colorize' is active"):
        await store.add_command("colorize", COMMANDS[0], key=None, now=NOW)
    await end(store, await store.start(make_new_rollout(), key=None, now=NOW))
    with pytest.raises(ConflictError, match="no rollout"):
        await store.add_command("colorize", COMMANDS[0], key=None, now=NOW)


# -- save --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
async def test_every_state_is_read_back_as_it_was_saved(store: Store, rollout: Rollout, state: State) -> None:
    saved = await store.save(
        dataclasses.replace(
            rollout,
            state=state,
            deadline_at=NOW + seconds(9999),
            judge='{"e": 1e-300,  "a":[1]}',
            evidence='{"words": "gut"}',
            judged_tick=1_795_350_615,
        ),
        now=NOW,
    )
    assert saved.version == 2
    assert saved.state == state
    assert await store.load(rollout.id) == saved


async def test_an_ended_rollout_leaves_the_active_ones(store: Store, rollout: Rollout) -> None:
    ended = await end(store, rollout)
    assert await store.load_active() == ()
    assert await store.load_latest("colorize") == await store.load(rollout.id) == ended


async def test_state_history_commands_and_split_are_one_commit(store: Store, rollout: Rollout) -> None:
    asked = await store.add_command("colorize", Promote("ada", "", full=True), key=None, now=NOW)
    done = Promoted(at=NOW + seconds(60), words="asked for")
    occurred = (
        Occurrence("transition", "Promote", "ada", "went on", "Baking", "Shifting"),
        Occurrence("transition", "Acked", "system", "done", "Shifting", "Promoted"),
    )
    await store.save(
        dataclasses.replace(rollout, state=done),
        occurred=occurred,
        handled=(asked.number,),
        split=make_split(v2=10_000, v1=0),
        now=NOW + seconds(60),
    )
    assert (await store.load(rollout.id)).state == done
    assert (await store.load_service("colorize")).split == make_split(v2=10_000, v1=0)
    assert await store.load_pending(rollout.id) == ()
    entries = (await store.history("colorize"))[-2:]
    assert [(entry.kind, entry.what, entry.by, entry.words, entry.before, entry.after) for entry in entries] == [
        dataclasses.astuple(occurrence) for occurrence in occurred
    ]
    assert {(entry.rollout, entry.at) for entry in entries} == {(rollout.id, NOW + seconds(60))}


async def test_a_stale_writer_changes_nothing(store: Store, rollout: Rollout) -> None:
    asked = await store.add_command("colorize", COMMANDS[0], key=None, now=NOW)
    await store.save(dataclasses.replace(rollout, judge="theirs"), now=NOW)
    before = await store.history("colorize")
    with pytest.raises(StaleWriteError, match="colorize-1"):
        await store.save(
            dataclasses.replace(rollout, state=ENDED),
            occurred=(Occurrence("transition", "Abort", "ada", "", "", ""),),
            handled=(asked.number,),
            split=make_split(v2=10_000),
            now=NOW,
        )
    assert (await store.load(rollout.id)).judge == "theirs"
    assert await store.history("colorize") == before
    assert await store.load_pending(rollout.id) == (asked,)
    assert (await store.load_service("colorize")).split == make_split(v1=10_000)


async def test_a_failed_save_changes_nothing(store: Store, rollout: Rollout) -> None:
    wrong = Occurrence("no such kind", "", "", "", "", "")
    with pytest.raises(ConflictError):
        await store.save(dataclasses.replace(rollout, state=ENDED), occurred=(wrong,), now=NOW)
    with pytest.raises(InvalidInputError, match="sum to 1 %"):
        await store.save(rollout, split=make_split(v1=100), now=NOW)
    assert await store.load(rollout.id) == rollout


async def test_an_unknown_rollout_is_not_found(store: Store, rollout: Rollout) -> None:
    with pytest.raises(NotFoundError, match="known: colorize-1"):
        await store.load(RolloutId("colorize-2"))
    with pytest.raises(StaleWriteError):
        await store.save(dataclasses.replace(rollout, id=RolloutId("colorize-2")), now=NOW)
    assert await store.load_pending(RolloutId("colorize-2")) == ()
    assert await store.load_latest("nobody") is None
    assert await store.list_rollouts("nobody") == ()


# -- history -----------------------------------------------------------------------------------------------------------


async def test_history_keeps_the_newest_entries_oldest_first(store: Store, rollout: Rollout) -> None:
    for number in range(5):
        occurred = (Occurrence("refused", "Resume", "ada", str(number), "", ""),)
        rollout = await store.save(rollout, occurred=occurred, now=NOW + seconds(number))
    entries = await store.history("colorize", limit=3)
    assert [entry.words for entry in entries] == ["2", "3", "4"]
    everything = await store.history("colorize")
    assert [entry.number for entry in everything] == sorted({entry.number for entry in everything})
    assert [entry.kind for entry in everything] == ["audit", "audit", "transition", *["refused"] * 5]
    assert await store.history("nobody") == ()
    older = await store.history("colorize", before=entries[0].number, limit=2)
    assert [entry.words for entry in older] == ["0", "1"]
    assert await store.history("colorize", before=everything[0].number) == ()
    assert await store.history_since("colorize", everything[1].number, limit=2) == everything[2:4]
    assert await store.history_since("colorize", everything[-1].number) == ()
    mine = await store.history("colorize", rollout=rollout.id)
    assert mine == tuple(entry for entry in everything if entry.rollout == rollout.id)
    assert await store.history("colorize", rollout=rollout.id, before=mine[-1].number, limit=1) == (mine[-2],)
    assert await store.history("other", rollout=rollout.id) == (), "it is another service's"
