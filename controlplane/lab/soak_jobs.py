"""Kill -9 of everything that jobs pass through, while they come in and run: is one lost, doubled or stuck?

Jobs come in all the while, some uploaded, some by URL, some as tasks of a foreign producer, some with a photo that
workers refuse. Each part is killed at random moments of the way, drawn beforehand from the seed as numbers of jobs, and
started again after a random pause. In the middle all workers are away for a while. What must hold: each job ends once,
done with a result that a worker gave for its very photo, or dead with the reason; the queue is empty in the end.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import json
import logging
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from controlplane.clock import Clock, SystemClock
from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.job_audit import MAX_SHOWN, Audit, audit, opened
from controlplane.lab.job_owner import Owner, plan_of
from controlplane.lab.job_world import Carrier, Part, World
from controlplane.lab.program import EndedEarlyError, console, run_program

SUBMITTERS: Final = 4
MAX_AHEAD: Final = 300
"""Jobs that may be on their way at once; the producer waits beyond."""
DOWN_S: Final = (0.1, 2.0)
KILLS_WITHIN: Final = (0.02, 0.95)
"""The part of the way that kills are drawn from."""
LOOK: Final = dt.timedelta(milliseconds=500)
TELL: Final = dt.timedelta(seconds=10)
STUCK: Final = dt.timedelta(minutes=4)
"""Without one more job that has ended in so long, the rest is taken for stuck."""
QUIET: Final = dt.timedelta(seconds=3)
EMPTY_WITHIN: Final = dt.timedelta(minutes=2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a run is to be: how many jobs, kills of each part, and how long all workers are away."""

    jobs: int = 10_000
    kills: int = 10
    workers_away: dt.timedelta = dt.timedelta(0)
    carrier: Carrier = "rabbitmq"
    seed: int = 0
    slowest_ms: int = 80
    """How long workers take at most. So that each kill of a few meets jobs, they must come in faster than they go."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it."""

    orders: Orders
    seconds: float
    kills: dict[str, int]
    repeated_requests: int
    audit: Audit

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, doubled or stuck."""
        return not self.audit.problems

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` writes."""
        return {
            "jobs": self.orders.jobs,
            "queue": self.orders.carrier,
            "seed": self.orders.seed,
            "seconds": round(self.seconds, 1),
            "workers_away_s": self.orders.workers_away.total_seconds(),
            "kills": self.kills,
            "states": dict(self.audit.states),
            "attempts": self.audit.attempts,
            "repeated_attempts": self.audit.repeated,
            "answers_of_workers": self.audit.answers,
            "repeated_requests": self.repeated_requests,
            "strays": self.audit.strays,
            "problems": self.audit.problems,
            "holds": self.holds,
        }

    def table(self) -> Table:
        """Return the table for people."""
        table = Table("", "")
        table.add_row("jobs", ", ".join(f"{count} {state}" for state, count in sorted(self.audit.states.items())))
        table.add_row("kills", ", ".join(f"{name} {count}" for name, count in self.kills.items()))
        table.add_row("all workers away, s", f"{self.orders.workers_away.total_seconds():g}")
        table.add_row("attempts, of these repeated", f"{self.audit.attempts}, {self.audit.repeated}")
        table.add_row("answers that workers gave", str(self.audit.answers))
        table.add_row("files that kills left, removed", str(self.audit.strays))
        table.add_row("requests that were repeated", str(self.repeated_requests))
        table.add_row("seconds", f"{self.seconds:.0f}")
        return table


class Drill:
    """One run.

    Args:
        orders: What it is to be.
        world: The processes.
        owner: The producer.
        clock: For waiting.
    """

    def __init__(self, orders: Orders, *, world: World, owner: Owner, clock: Clock) -> None:
        self._orders = orders
        self._world = world
        self._owner = owner
        self._clock = clock
        self._rng = random.Random(orders.seed)
        self._next = 0
        self._due: dict[str, Sequence[int]] = {}
        self._is_over = False
        self._progress = console(stderr=True)

    async def run(self) -> None:
        """Submit everything, kill meanwhile, and wait until all jobs have ended or nothing moves any more."""
        low, high = (int(share * self._orders.jobs) for share in KILLS_WITHIN)
        for part in self._world.parts:
            self._due[part.name] = sorted(self._rng.randint(low, high) for _ in range(self._orders.kills))
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(self._collect()), tasks.create_task(self._tell())]
            async with asyncio.TaskGroup() as work:
                for _ in range(SUBMITTERS):
                    work.create_task(self._submit())
                for part in self._world.parts:
                    work.create_task(self._kill(part))
                if self._orders.workers_away:
                    work.create_task(self._send_workers_away())
            await self._wait_ended()
            for task in watching:
                task.cancel()

    async def _submit(self) -> None:
        with_tasks = self._orders.carrier == "rabbitmq"
        while self._next < self._orders.jobs:
            number, self._next = self._next, self._next + 1
            while not self._may_go_on(number):
                self._world.check_alive()
                await self._clock.sleep(LOOK / 5)
            await self._owner.submit(plan_of(number, with_tasks=with_tasks))

    def _may_go_on(self, number: int) -> bool:
        """Whether the way ahead is short, and no kill lags behind: kills are to meet jobs on their way."""
        late = any(sum(at < number for at in self._due[part.name]) - part.kills > 1 for part in self._world.parts)
        return not late and number - self._owner.ended < MAX_AHEAD

    async def _kill(self, part: Part) -> None:
        for at in self._due[part.name]:
            await self._wait_reached(at)
            async with part.lock:
                await part.kill()
                await self._clock.sleep(dt.timedelta(seconds=self._rng.uniform(*DOWN_S)))
                await part.start()
                part.kills += 1

    async def _send_workers_away(self) -> None:
        await self._wait_reached(self._orders.jobs // 2)
        part = next(part for part in self._world.parts if part.name == "worker")
        async with part.lock:
            self._progress.print(f"all workers are away for {self._orders.workers_away.total_seconds():g} s")
            await self._world.send_workers_away()
            await self._clock.sleep(self._orders.workers_away)
            await self._world.bring_workers_back()
            self._progress.print("they are back")

    async def _wait_reached(self, number: int) -> None:
        while self._next <= number:
            await self._clock.sleep(LOOK / 5)

    async def _collect(self) -> None:
        while True:
            await self._owner.look()
            await self._clock.sleep(LOOK)

    async def _wait_ended(self) -> None:
        """Wait for the end of all jobs, as long as one more ends now and then."""
        ended, since = -1, self._clock.steady()
        while self._owner.ended < self._orders.jobs:
            self._world.check_alive()
            if self._owner.ended > ended:
                ended, since = self._owner.ended, self._clock.steady()
            elif self._clock.steady() - since > STUCK.total_seconds():
                return
            await self._clock.sleep(LOOK)

    async def _tell(self) -> None:
        begun = self._clock.steady()
        while True:
            await self._clock.sleep(TELL)
            states = collections.Counter(job.state or "on their way" for job in self._owner.jobs.values())
            counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            kills = ", ".join(f"{part.name} {part.kills}" for part in self._world.parts)
            self._progress.print(f"{self._clock.steady() - begun:5.0f} s: {counts}; kills: {kills}", soft_wrap=True)


async def run_drill(orders: Orders, *, directory: Path, clock: Clock) -> Report:
    """Run the drill, stop everything, and look at what is left.

    Raises:
        ControlPlaneError: Something did not start, ended by itself, or refused what is sound.
    """
    begun = clock.steady()
    async with World(
        carrier=orders.carrier, directory=directory, seed=orders.seed, slowest_ms=orders.slowest_ms, clock=clock
    ) as world:
        owner = Owner(
            api_port=world.stack.ports.api,
            key_file=world.directory / "admin.key",
            photos_port=world.photos_port,
            queue_url=world.queue_url,
            clock=clock,
        )
        async with owner:
            await owner.apply_kind()
            await Drill(orders, world=world, owner=owner, clock=clock).run()
            await _wait_quiet(world, clock)
        await world.stop_control_planes()
        found = await audit(owner, world, clock=clock)
        return Report(
            orders=orders,
            seconds=clock.steady() - begun,
            kills={part.name: part.kills for part in world.parts},
            repeated_requests=owner.repeated_requests,
            audit=found,
        )


async def _wait_quiet(world: World, clock: Clock) -> None:
    """Wait until the last wake-ups, of which a kill may have left some twice, are through."""
    async with opened(world, clock) as (store, _):

        async def ask() -> bool | None:
            return None if await store.load_outbox(now=clock.now()) else True

        try:
            await wait_for_answer(ask, what="an empty outbox", clock=clock, at_most=EMPTY_WITHIN)
        except UnavailableError:
            return  # the audit says what is left
    await clock.sleep(QUIET)


def main(
    *,
    jobs: int = 10_000,
    kills: int = 10,
    workers_away: float = 0.0,
    queue: Carrier = "rabbitmq",
    seed: int | None = None,
    json_file: Path | None = None,
) -> int:
    """Run the drill, print its table, and return 0 if nothing was lost, doubled or stuck."""
    orders = Orders(
        jobs=jobs,
        kills=kills,
        workers_away=dt.timedelta(seconds=workers_away),
        carrier=queue,
        seed=random.SystemRandom().randrange(1_000_000) if seed is None else seed,
    )
    directory = Path(tempfile.mkdtemp(prefix="hueshift-soak-jobs-"))
    for name in ("aiormq", "aio_pika"):  # they write of each broken connection; breaking them is what we do
        logging.getLogger(name).setLevel(logging.CRITICAL)
    print(f"seed {orders.seed}", flush=True)
    try:
        report = run_program(run_drill(orders, directory=directory, clock=SystemClock()))
    except (EndedEarlyError, ControlPlaneError) as exc:
        print(f"soak: {exc} (logs: {directory})", file=sys.stderr)
        return exc.code if isinstance(exc, EndedEarlyError) else 1
    console().print(report.table())
    for problem in report.audit.problems[:MAX_SHOWN]:
        print(f"  {problem}")
    if len(report.audit.problems) > MAX_SHOWN:
        print(f"  and {len(report.audit.problems) - MAX_SHOWN} more")
    print(f"{'holds' if report.holds else 'FAILS'}; logs, rows and pictures: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return 0 if report.holds else 1
