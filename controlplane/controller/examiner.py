"""Has the pictures of rollouts' versions compared when they are wanted, and keeps what came of it.

Context: a comparison takes from seconds to many minutes, workers are away or busy, and this process may die at any
line. Choice: each comparison is a task of its own and a row that is written before the first photo is sent; a row that
says "running" although nobody here runs it was left by somebody who died, and is begun anew. Consequence: no comparison
delays the controller's turns, and a rollout that waits for one says what for.
"""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import structlog

from controlplane.clock import Clock
from controlplane.controller.fleet import unready_members
from controlplane.controller.pictures import is_due
from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.ports import (
    ClusterHealth,
    Compared,
    Desired,
    DesiredStore,
    FleetStore,
    NodeStatus,
    PictureGate,
    QualityStore,
    Rollout,
    RolloutId,
    TelemetryStore,
    VersionWorkers,
)
from controlplane.rollout.model import Preparing
from controlplane.rollout.quality import QualityRun, RunStatus
from controlplane.rollout.slo import QualitySlo, quality_slo
from controlplane.traffic.model import Version

log = structlog.get_logger()

AT_ONCE: Final = 2
"""Comparisons under way at once, of all rollouts: each holds both versions' pictures in memory."""

NOT_INSTALLED: Final = "the control plane lacks the package pillow; install it with: pip install 'hueshift[quality]'"
CRASHED: Final = "comparing them failed with a bug of ours: see the log"


class ExaminingStore(DesiredStore, QualityStore, FleetStore, TelemetryStore, Protocol):
    """What the examiner reads and writes."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Examination:
    """One rollout's two versions, whose pictures are compared as *slo* says."""

    rollout: Rollout
    slo: QualitySlo
    baseline: Version
    candidate: Version
    addresses: Mapping[str, tuple[str, ...]]

    @property
    def sides(self) -> tuple[VersionWorkers, VersionWorkers]:
        """Return where both versions' workers are, the old one's first."""
        old, new = (
            VersionWorkers(version.name, _addresses_of(version, self.addresses))
            for version in (self.baseline, self.candidate)
        )
        return old, new

    def is_manned(self, nodes: Sequence[NodeStatus], health: Sequence[ClusterHealth], *, now: dt.datetime) -> bool:
        """Whether the candidate's workers are up: one that still loads its model has no pictures, broken or not."""
        return not isinstance(self.rollout.state, Preparing) or not unready_members(
            nodes, health, self.candidate.cluster, now=now
        )


@dataclasses.dataclass(slots=True, kw_only=True)
class Examiner:
    """Compares the pictures of each rollout that has an objective about them, whenever `pictures.is_due` says so.

    *leads* says whether this process moves the rollouts: only that one compares. Without a *gate*, every comparison
    comes to nothing, in words that say so.
    """

    store: ExaminingStore
    gate: PictureGate | None
    clock: Clock
    leads: Callable[[], bool]
    interval: dt.timedelta = dt.timedelta(seconds=1)
    _running: set[RolloutId] = dataclasses.field(default_factory=set)
    _slots: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def run(self) -> None:
        """Begin what is due, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    await self.turn(tasks)
                except ControlPlaneError:
                    log.warning("examiner.turn_refused", exc_info=True)
                except Exception:  # a bug in one turn must not end the guard; the next turn reads everything anew
                    log.exception("examiner.turn_crashed")
                await self.clock.sleep(self.interval)

    async def turn(self, tasks: asyncio.TaskGroup) -> None:
        """Begin the comparisons that are due, as tasks of *tasks*."""
        if not self.leads():
            return
        wanted = [
            each for each in _examinations(await self.store.load_desired()) if each.rollout.id not in self._running
        ]
        if not wanted:
            return
        nodes, health = await self.store.load_nodes(), await self.store.load_health()
        for each in wanted:
            runs, now = await self.store.load_quality_runs(each.rollout.id), self.clock.now()
            if is_due(each.rollout, runs, now=now) and each.is_manned(nodes, health, now=now):
                self._running.add(each.rollout.id)
                tasks.create_task(self._examine(each), name=f"compare the pictures of {each.rollout.id}")

    # -- one comparison ------------------------------------------------------------------------------------------------

    async def _examine(self, examination: _Examination) -> None:
        rollout = examination.rollout.id
        try:
            async with self._slots:
                run = await self.store.begin_quality_run(rollout, now=self.clock.now())
                log.info("quality.begun", rollout_id=rollout, number=run.number)
                compared, words = await self._compare(examination)
                ended = _ended(run, compared, words, now=self.clock.now())
                counts = await self.store.end_quality_run(rollout, ended, compared)
                log.info("quality.ended", rollout_id=rollout, number=run.number, words=ended.words, counts=counts)
        except ControlPlaneError:
            log.warning("quality.not_kept", rollout_id=rollout, exc_info=True)
        finally:
            self._running.discard(rollout)

    async def _compare(self, examination: _Examination) -> tuple[Compared | None, str]:
        """Return what the gate says, or why it says nothing."""
        if self.gate is None:
            return None, NOT_INSTALLED
        old, new = examination.sides
        try:
            for side in (old, new):
                if not side.workers:
                    raise UnavailableError(f"no worker of {side.name} has an address yet")  # noqa: TRY301 - told alike
            return await self.gate.compare(old, new, examination.slo), ""
        except ControlPlaneError as exc:
            return None, str(exc)
        except Exception:  # a bug over one rollout's pictures must not end the others' comparisons
            log.exception("quality.crashed", rollout_id=examination.rollout.id)
            return None, CRASHED


def _ended(run: QualityRun, compared: Compared | None, words: str, *, now: dt.datetime) -> QualityRun:
    if compared is None:
        return dataclasses.replace(run, status=RunStatus.FAILED, ended_at=now, words=words)
    return dataclasses.replace(
        run,
        status=RunStatus.DONE,
        ended_at=now,
        verdict=compared.verdict,
        words=compared.sentence,
        old=compared.old,
        new=compared.new,
    )


def _examinations(desired: Desired) -> Iterator[_Examination]:
    """Yield the rollouts that have an objective about pictures, due or not."""
    for service in desired.services:
        rollout, spec = service.rollout, service.revision.spec
        slo = quality_slo(rollout.slos) if rollout is not None else None
        if rollout is not None and slo is not None:
            versions = spec.version(rollout.baseline), spec.version(rollout.candidate)
            yield _Examination(rollout, slo, *versions, desired.addresses)


def _addresses_of(version: Version, addresses: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the version's workers, as Envoy gets them: host names as what they resolve to now."""
    found = [
        (host, endpoint.port)
        for endpoint in version.endpoints
        for host in ((endpoint.host,) if endpoint.is_address else addresses.get(endpoint.host, ()))
    ]
    return tuple(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host, port in found)
