"""What changes rows that loops read is announced after the commit, and what changes nothing is not."""

import dataclasses
from collections.abc import Awaitable, Callable

import pytest

from controlplane.errors import ConflictError
from controlplane.ports import ClusterHealth, RevisionStatus, Rollout, SnapshotStatus, TelemetryBatch
from controlplane.rollout.model import NO_STEP, Pause, Shifting
from controlplane.store import SqlStore
from controlplane.wake import Topic
from tests.builders import (
    NOW,
    make_batch,
    make_change,
    make_key,
    make_new_rollout,
    make_node,
    make_snapshot,
    make_spec,
    make_split,
    seconds,
)
from tests.contract.conftest import Ears

Step = Callable[[SqlStore, Rollout], Awaitable[object]]
SHIFTING = Shifting(step=0, since=NOW, came_from=NO_STEP)
BAD = SnapshotStatus.REJECTED

STEPS: list[tuple[str, Step, set[Topic]]] = [
    ("apply", lambda s, _: s.apply(make_spec("b", port=1), by="", why="", now=NOW), {Topic.DESIRED}),
    ("apply again", lambda s, _: s.apply(make_spec(), by="", why="", now=NOW), set()),
    (
        "mark revision",
        lambda s, _: s.mark_revisions({"colorize": 1}, RevisionStatus.GOOD, "", now=NOW),
        {Topic.DESIRED},
    ),
    (
        "mark revision again",
        lambda s, _: s.mark_revisions({"colorize": 1}, RevisionStatus.PROPOSED, "", now=NOW),
        set(),
    ),
    ("set split", lambda s, _: s.set_split("other", make_split(v2=10_000), by="", why="", now=NOW), {Topic.DESIRED}),
    ("start", lambda s, _: s.start(make_new_rollout("other"), key=None, now=NOW), {Topic.DESIRED, Topic.COMMANDS}),
    ("start again", lambda s, _: s.start(make_new_rollout(), key="k", now=NOW), set()),
    ("command", lambda s, _: s.add_command("colorize", Pause("", ""), key=None, now=NOW), {Topic.COMMANDS}),
    ("save state", lambda s, r: s.save(dataclasses.replace(r, state=SHIFTING), now=NOW), {Topic.DESIRED}),
    ("save split", lambda s, r: s.save(r, split=make_split(v1=10_000), now=NOW), {Topic.DESIRED}),
    ("save judge", lambda s, r: s.save(dataclasses.replace(r, judge="{}", judged_tick=1), now=NOW), set()),
    ("node", lambda s, _: s.record_nodes((make_node(),)), {Topic.FLEET}),
    ("no node", lambda s, _: s.record_nodes(()), set()),
    ("forget replica", lambda s, _: s.forget_replica("two", now=NOW), {Topic.FLEET}),
    ("forget nothing", lambda s, _: s.forget_replica("nine", now=NOW), set()),
    ("propose", lambda s, _: s.propose_snapshot(make_snapshot("s2")), set()),
    ("mark snapshot", lambda s, _: s.mark_snapshot("", "s1", BAD, "no"), {Topic.FLEET}),
    ("mark nothing", lambda s, _: s.mark_snapshot("", "s9", BAD, "no"), set()),
    ("addresses", lambda s, _: s.save_addresses({"a": ("10.0.0.2",)}, now=NOW), {Topic.DESIRED}),
    ("same addresses", lambda s, _: s.save_addresses({"a": ("10.0.0.1",)}, now=NOW + seconds(9)), set()),
    ("record", lambda s, _: s.record(make_batch("one")), {Topic.TELEMETRY}),
    ("forget health", lambda s, _: s.forget_health(("edge-2",)), {Topic.FLEET}),
    ("forget no health", lambda s, _: s.forget_health(("edge-9",)), set()),
    ("prune", lambda s, _: s.prune_telemetry(before_tick=2), set()),
    ("key", lambda s, _: s.add_key(make_key(), make_change()), set()),
    ("lease", lambda s, _: s.acquire_lease("a", ttl=seconds(1), now=NOW), set()),
]


@pytest.fixture
async def rollout(store: SqlStore, ears: Ears) -> Rollout:
    """Fill the store with what the steps change, and forget what that announced."""
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    started = await store.start(make_new_rollout(), key="k", now=NOW)
    await store.record_nodes((make_node("edge-2", replica="two"),))
    await store.propose_snapshot(make_snapshot())
    await store.save_addresses({"a": ("10.0.0.1",)}, now=NOW)
    await store.record(TelemetryBatch("one", health=(ClusterHealth("edge-2", "v1", 1, 1),)))
    await ears.heard()
    return started


@pytest.mark.parametrize(("step", "topics"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
async def test_a_commit_wakes_who_reads_it(
    store: SqlStore, ears: Ears, rollout: Rollout, step: Step, topics: set[Topic]
) -> None:
    await step(store, rollout)
    assert await ears.heard() == topics


async def test_what_failed_wakes_nobody(store: SqlStore, ears: Ears, rollout: Rollout) -> None:
    with pytest.raises(ConflictError):
        await store.start(make_new_rollout(rollout.service), key=None, now=NOW)
    assert await ears.heard() == set()
