"""After the drill, with everything stopped: do rows, queue, blobs and the workers' notes agree?"""

import collections
import contextlib
import dataclasses
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from controlplane.blobs.directory import DirectoryBlobs
from controlplane.broker.rabbitmq import RabbitQueue
from controlplane.clock import Clock
from controlplane.jobs.leftovers import PREFIXES, LeftoverScan
from controlplane.jobs.model import Job
from controlplane.jobs.ports import JobQueue
from controlplane.lab.job_owner import KIND, Owner, Seen
from controlplane.lab.job_worker import REFUSAL
from controlplane.lab.job_world import OWNER, World
from controlplane.store import SqlStore, open_store
from controlplane.store.job_queue import SqlQueue
from controlplane.wake import WakeBoard

PAGE: Final = 500
MAX_SHOWN: Final = 20


@dataclasses.dataclass(slots=True)
class Audit:
    """What was found.

    *repeated* counts attempts beyond a job's first, *answers* what the workers gave, *strays* files that no row
    names, which kills left and the product removes.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    states: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    attempts: int = 0
    repeated: int = 0
    answers: int = 0
    strays: int = 0

    def check(self, holds: bool, words: str) -> None:  # noqa: FBT001 - reads as an assertion
        """Note *words* as a problem unless it *holds*."""
        if not holds:
            self.problems.append(words)

    def check_equal(self, who: str, what: str, value: object, expected: object) -> bool:
        """Note a problem unless *value* is what is expected; return whether it is."""
        if value != expected:
            self.problems.append(f"{who}: {what} is {value!r}, not {expected!r}")
        return value == expected


@contextlib.asynccontextmanager
async def opened(world: World, clock: Clock) -> AsyncIterator[tuple[SqlStore, JobQueue]]:
    """Open the rows and the queue of a world."""
    url = f"sqlite:///{world.directory / 'hueshift.sqlite3'}"
    store = await open_store(url, board=WakeBoard(), clock=clock)
    queue = RabbitQueue(world.queue_url) if world.queue_url else SqlQueue(database=store.database, clock=clock)
    try:
        yield store, queue
    finally:
        await queue.close()
        await store.close()


async def audit(owner: Owner, world: World, *, clock: Clock) -> Audit:
    """Hold everything that is left against what the producer knows."""
    found = Audit(problems=list(owner.problems))
    async with opened(world, clock) as (store, queue):
        rows = await _load_rows(store)
        found.strays = await _sweep(store, world, clock)
        _check_rows(found, rows, owner.jobs)
        _check_answers(found, rows, owner.jobs, world)
        _check_blobs(found, rows, world)
        await _check_queue(found, store, queue, rows, clock)
    return found


async def _sweep(store: SqlStore, world: World, clock: Clock) -> int:
    """Have the product remove what kills left, as it does an hour later; return how many files that were."""
    later = _Later(clock)
    scan = LeftoverScan(
        store=store, blobs=DirectoryBlobs(world.blobs), clock=later, pause=dt.timedelta(0), rest=dt.timedelta(days=1)
    )
    before = _count_files(world)
    for _ in range(before // scan.page + 2 * len(PREFIXES)):
        await scan.look()
    return before - _count_files(world)


class _Later:
    """The same clock, two hours ahead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> dt.datetime:
        return self._clock.now() + dt.timedelta(hours=2)

    def steady(self) -> float:
        return self._clock.steady()

    async def sleep(self, delay: dt.timedelta) -> None:
        await self._clock.sleep(delay)


def _count_files(world: World) -> int:
    return sum(path.is_file() for path in world.blobs.rglob("*"))


async def _load_rows(store: SqlStore) -> tuple[Job, ...]:
    rows: list[Job] = []
    while page := await store.list_jobs(OWNER, before=rows[-1].id if rows else None, limit=PAGE):
        rows += page
    return tuple(rows)


def _check_rows(found: Audit, rows: tuple[Job, ...], jobs: Mapping[int, Seen]) -> None:
    by_task = {row.task_id: row for row in rows}
    found.check(len(by_task) == len(rows), "a task has two rows")
    for task in by_task.keys() - {seen.plan.task_id for seen in jobs.values()}:
        found.problems.append(f"{task}: a job that nobody submitted")
    for seen in jobs.values():
        row = by_task.get(seen.plan.task_id)
        if row is None:
            found.problems.append(f"{seen.plan.task_id}: lost, it has no row")
            continue
        _check_row(found, row, seen)
    found.states.update(row.state.value for row in rows)
    found.attempts = sum(row.attempts for row in rows)
    found.repeated = sum(max(0, row.attempts - 1) for row in rows)


def _check_row(found: Audit, row: Job, seen: Seen) -> None:
    name = f"{seen.plan.task_id} ({row.id})"
    expected = "dead" if seen.plan.bad else "done"
    if not found.check_equal(name, "state", row.state.value, expected):
        found.problems.append(f"{name}: attempts {row.attempts}, failures {row.failures}: {row.words}")
        return
    found.check_equal(name, "id", row.id, seen.id)
    found.check_equal(name, "state when it was first seen", seen.state, row.state.value)
    found.check_equal(name, "attempts", row.attempts, seen.attempts)
    found.check_equal(name, "VIP", row.vip, seen.plan.vip)
    if row.result is not None:
        found.check_equal(name, "result", row.result.sha256, seen.sha256)
    else:
        found.check(REFUSAL in row.words, f"{name}: is dead, but the reason is {row.words!r}")


def _check_answers(found: Audit, rows: tuple[Job, ...], jobs: Mapping[int, Seen], world: World) -> None:
    """Each result is one that a worker gave for that very job."""
    given: dict[str, set[str]] = collections.defaultdict(set)
    for file in world.answers:
        for line in file.read_text().splitlines():
            job, nonce = line.split()
            given[job].add(nonce)
    found.answers = sum(len(nonces) for nonces in given.values())
    for job in given.keys() - {row.id for row in rows}:
        found.problems.append(f"{job}: coloured, but not a job")
    for seen in jobs.values():
        if seen.state == "done":
            found.check(seen.nonce in given[seen.id], f"{seen.plan.task_id}: no worker gave its result")
    for row in rows:
        found.check(
            len(given[row.id]) <= row.attempts,
            f"{row.task_id} ({row.id}): {len(given[row.id])} answers for {row.attempts} attempts",
        )


def _check_blobs(found: Audit, rows: tuple[Job, ...], world: World) -> None:
    """What rows name is there as they say, and nothing else is."""
    named = {picture.key: picture.sha256 for row in rows for picture in (row.photo, row.result) if picture is not None}
    there = {str(path.relative_to(world.blobs)): path for path in world.blobs.rglob("*") if path.is_file()}
    for key, digest in named.items():
        path = there.get(key)
        if path is None:
            found.problems.append(f"{key}: is named by a row, but not there")
        else:
            found.check(hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{key}: is not what its row says")
    for key in there.keys() - named.keys():
        found.problems.append(f"{key}: no row names it, and the scan for leftovers has left it")


async def _check_queue(found: Audit, store: SqlStore, queue: JobQueue, rows: tuple[Job, ...], clock: Clock) -> None:
    outbox = await store.load_outbox(now=clock.now())
    found.check(not outbox, f"{len(outbox)} wake-ups are left in the outbox")
    left = await queue.take([KIND["kind"]], limit=PAGE)
    found.check(not left, f"{len(left)} wake-ups are left in the queue, of {[each.wake_up.job for each in left][:3]}")
    letters = {letter.job: letter.words for letter in await queue.dead_letters(limit=2 * len(rows) + PAGE)}
    dead = {row.id: row.words for row in rows if row.state == "dead"}
    for job in dead.keys() - letters.keys():
        found.problems.append(f"{job}: is dead, but not among the dead letters")
    for job in letters.keys() - dead.keys():
        found.problems.append(f"{job}: is among the dead letters, but not dead")
    for job in dead.keys() & letters.keys():
        found.check(bool(letters[job].strip()), f"{job}: is a dead letter without a reason")
    if isinstance(queue, RabbitQueue):
        tasks = await queue.take_tasks(limit=PAGE)
        found.check(not tasks, f"{len(tasks)} foreign tasks are left")
