"""Asks Prometheus for the objectives that are queries, and keeps what it says for the judge.

Context: Prometheus may be slow, or away, or refuse one query of many. Choice: every asking is a task of its own, with
a time-out and a bounded number of queries at once, and its failure is kept like an answer, in words. Consequence: no
query delays the controller's turns or another rollout's samples, and a rollout that waits for data says which and why.
"""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.ports import Desired, DesiredStore, MetricSource, RolloutId, SampleStore
from controlplane.rollout.lifecycle import carries_traffic
from controlplane.rollout.model import Shifting, State
from controlplane.rollout.objectives import query_slos
from controlplane.rollout.sampling import QuerySample, Reading, read, sampled
from controlplane.rollout.slo import QuerySlo, fill_in, queries
from controlplane.wake import Wake

log = structlog.get_logger()

LONGEST: Final = dt.timedelta(seconds=10)
"""How long a query may take, and never longer than nine tenths of the interval: the next asking is then due."""
AT_ONCE: Final = 48
"""Queries under way at once, of all rollouts."""
AT_ONCE_OF_ONE: Final = 8
"""The same of one rollout, so that the slow queries of one leave room for the others'."""

NOTHING: Final = Reading()
NOT_CONFIGURED: Final = "no Prometheus is configured: set HUESHIFT_PROMETHEUS_URL"
CRASHED: Final = "asking for it failed with a bug of ours: see the log"


class SamplingStore(DesiredStore, SampleStore, Protocol):
    """What the sampler reads and writes."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Asking:
    """One objective of one rollout, and what stands for both versions in its queries."""

    rollout: RolloutId
    slo: QuerySlo
    baseline_names: Mapping[str, str]
    candidate_names: Mapping[str, str]

    @property
    def key(self) -> tuple[RolloutId, str]:
        return self.rollout, self.slo.name

    @property
    def within(self) -> dt.timedelta:
        return min(LONGEST, self.slo.interval * 0.9)


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """What an asking came to, not yet stamped."""

    asking: _Asking
    baseline: Reading = NOTHING
    candidate: Reading = NOTHING
    words: str = ""


@dataclasses.dataclass(slots=True, kw_only=True)
class Sampler:
    """Asks each query objective of each rollout whose candidate carries traffic every interval, for both versions.

    *leads* says whether this process moves the rollouts: only that one asks. Two that both believe so for a moment
    do no harm, since raw numbers are kept. Without a *source*, every objective has the words that say so.
    """

    store: SamplingStore
    source: MetricSource | None
    clock: Clock
    leads: Callable[[], bool]
    interval: dt.timedelta = dt.timedelta(seconds=1)
    _ready: Wake = dataclasses.field(default_factory=Wake)
    _due: dict[tuple[RolloutId, str], float] = dataclasses.field(default_factory=dict)
    _running: set[tuple[RolloutId, str]] = dataclasses.field(default_factory=set)
    _answers: list[_Answer] = dataclasses.field(default_factory=list)
    _said: dict[tuple[RolloutId, str], str] = dataclasses.field(default_factory=dict)
    _slots: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _slots_of: dict[RolloutId, asyncio.Semaphore] = dataclasses.field(default_factory=dict)

    async def run(self) -> None:
        """Write what was answered and ask what is due, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                pause = self.interval
                try:
                    await self.turn(tasks)
                    pause = self._pause()
                except ControlPlaneError:
                    log.warning("sampler.turn_refused", exc_info=True)
                except Exception:  # a bug in one turn must not end the guard; the next turn reads everything anew
                    log.exception("sampler.turn_crashed")
                await self._ready.wait(pause)

    async def turn(self, tasks: asyncio.TaskGroup) -> None:
        """Write what has been answered since the last turn, and begin what is due, as tasks of *tasks*."""
        await self.write()
        if not self.leads():
            self._due.clear()
            return
        askings = _askings(await self.store.load_desired())
        self._forget(askings)
        now = self.clock.steady()
        for asking in askings:
            if asking.key not in self._running and now >= self._due.get(asking.key, now):
                self._due[asking.key] = now + asking.slo.interval.total_seconds()
                self._running.add(asking.key)
                tasks.create_task(self._ask(asking), name=f"ask {asking.slo.name} of {asking.rollout}")

    async def write(self) -> None:
        """Keep what was answered, in one transaction. What cannot be kept is dropped: the next asking tells it too."""
        answers, self._answers = self._answers, []
        if not answers:
            return
        # The second after the present one: a judge looks at a second when it is over, so it has not seen that one, and
        # will find the sample there, however the clocks of a control plane's processes differ by less than a second.
        tick = int(self.clock.now().timestamp()) + 1
        samples: dict[RolloutId, list[QuerySample]] = {}
        for answer in answers:
            samples.setdefault(answer.asking.rollout, []).append(_stamped(answer, tick))
        await self.store.record_samples(samples)

    def _pause(self) -> dt.timedelta:
        """Return how long there is nothing to do, at most: until something is due, or may have changed."""
        waiting = [at for key, at in self._due.items() if key not in self._running]
        now = self.clock.steady()
        until = min([now + self.interval.total_seconds(), *waiting])
        return dt.timedelta(seconds=max(0.0, until - now))

    def _forget(self, askings: Sequence[_Asking]) -> None:
        keys = {asking.key for asking in askings}
        rollouts = {asking.rollout for asking in askings}
        self._due = {key: at for key, at in self._due.items() if key in keys}
        self._said = {key: words for key, words in self._said.items() if key in keys}
        self._slots_of = {rollout: slots for rollout, slots in self._slots_of.items() if rollout in rollouts}

    # -- one asking ----------------------------------------------------------------------------------------------------

    async def _ask(self, asking: _Asking) -> None:
        try:
            answer = await self._answer(asking)
        except Exception:  # a bug over one objective must not end the others' askings
            log.exception("query.crashed", rollout_id=asking.rollout, objective=asking.slo.name)
            answer = _Answer(asking, words=CRASHED)
        finally:
            self._running.discard(asking.key)
        self._tell(answer)
        self._answers.append(answer)
        # All that began together are written together; whoever is slower than a turn does not keep the others waiting.
        if not self._running:
            self._ready.set()

    async def _answer(self, asking: _Asking) -> _Answer:
        if self.source is None:
            return _Answer(asking, words=NOT_CONFIGURED)
        found: dict[tuple[str, int], float | None] = {}
        refused: list[UnavailableError] = []
        own_slots = self._slots_of.setdefault(asking.rollout, asyncio.Semaphore(AT_ONCE_OF_ONE))

        async def ask(source: MetricSource, version: str, place: int, query: str) -> None:
            async with own_slots, self._slots:
                try:
                    found[version, place] = await source.ask(query, within=asking.within)
                except UnavailableError as exc:
                    refused.append(exc)

        async with asyncio.TaskGroup() as tasks:
            for names in (asking.baseline_names, asking.candidate_names):
                for place, query in enumerate(queries(asking.slo)):
                    tasks.create_task(ask(self.source, names["version"], place, fill_in(query, names)))
        if refused:
            return _Answer(asking, words=str(refused[0]))
        baseline, candidate = (
            read(asking.slo, [found[names["version"], place] for place in range(len(queries(asking.slo)))])
            for names in (asking.baseline_names, asking.candidate_names)
        )
        return _Answer(asking, baseline, candidate)

    def _tell(self, answer: _Answer) -> None:
        """Log a failure when it begins or changes, and its end. That there is no data is no failure, at first."""
        asking = answer.asking
        words = _stamped(answer, 0).words
        if words == self._said.get(asking.key, ""):
            return
        self._said[asking.key] = words
        if answer.words:
            log.warning("query.failed", rollout_id=asking.rollout, objective=asking.slo.name, words=words)
        elif words:
            log.info("query.empty", rollout_id=asking.rollout, objective=asking.slo.name, words=words)
        else:
            log.info("query.resumed", rollout_id=asking.rollout, objective=asking.slo.name)


def _askings(desired: Desired) -> list[_Asking]:
    """Return everything that is asked for now, due or not."""
    found: list[_Asking] = []
    for service in desired.services:
        rollout, spec = service.rollout, service.revision.spec
        if rollout is None or not _may_carry_traffic(rollout.state):
            continue
        baseline, candidate = (
            {"service": spec.name, "version": version, "cluster": spec.version(version).cluster}
            for version in (rollout.baseline, rollout.candidate)
        )
        found += [_Asking(rollout.id, slo, baseline, candidate) for slo in query_slos(rollout.slos)]
    return found


def _may_carry_traffic(state: State) -> bool:
    # The first weight counts from its first Envoy on, so that counters are known when the judge begins.
    return carries_traffic(state) or isinstance(state, Shifting)


def _stamped(answer: _Answer, tick: int) -> QuerySample:
    slo = answer.asking.slo
    if answer.words:
        return QuerySample(slo.name, tick, words=answer.words)
    version = answer.asking.candidate_names["version"]
    return sampled(slo, tick, answer.baseline, answer.candidate, version=version)
