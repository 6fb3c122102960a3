"""Asks the workers of versions with a pinned model which model they serve, and keeps what they say.

Context: a worker may be replaced at any moment by one with other weights under the same address. Choice: each is asked
again and again, often while its version is rolled out, and a failure to answer is kept in words beside the last answer.
Consequence: the controller reads rows only, and a slow worker delays neither it nor the others.
"""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.ports import Desired, DesiredStore, ModelSource, ModelStore
from controlplane.traffic.model import Endpoint, Version
from controlplane.traffic.provenance import ModelReport, deviations
from controlplane.wake import Wake

log = structlog.get_logger()

EAGER: Final = dt.timedelta(seconds=2)
"""How often a worker is asked while its version is rolled out."""
CALM: Final = dt.timedelta(seconds=20)
"""How often otherwise; several times while an answer is fresh (`traffic.provenance.STALE`)."""
WITHIN: Final = dt.timedelta(seconds=2)
AT_ONCE: Final = 32
RENEWED: Final = dt.timedelta(seconds=10)
"""An answer that says nothing new is written again when the row is older than this."""

Key = tuple[str, str]
"""A worker as one of a version's: cluster and address."""


class ReportingStore(DesiredStore, ModelStore, Protocol):
    """What the watch reads and writes."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Worker:
    version: Version
    address: str
    host: str
    every: dt.timedelta

    @property
    def key(self) -> Key:
        return self.version.cluster, self.address


@dataclasses.dataclass(slots=True, kw_only=True)
class ProvenanceWatch:
    """Keeps the reports of all workers of pinned versions fresh, in the process that moves the rollouts (*leads*)."""

    store: ReportingStore
    source: ModelSource
    clock: Clock
    wake: Wake
    leads: Callable[[], bool]
    interval: dt.timedelta = dt.timedelta(seconds=1)
    _due: dict[Key, float] = dataclasses.field(default_factory=dict)
    _said: dict[Key, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    _slots: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def run(self) -> None:
        """Take a turn at every wake-up and every *interval*, for ever."""
        while True:
            try:
                await self.turn()
            except ControlPlaneError:
                log.warning("provenance.turn_refused", exc_info=True)
            except Exception:  # a bug in one turn must not end the guard; the next turn reads everything anew
                log.exception("provenance.turn_crashed")
            await self.wake.wait(self.interval)

    async def turn(self) -> None:
        """Ask every worker that is due, and write what is new."""
        if not self.leads():
            self._due.clear()
            return
        workers = {worker.key: worker for worker in _workers(await self.store.load_desired())}
        now = self.clock.steady()
        self._due = {key: at for key, at in self._due.items() if key in workers}
        due = [worker for key, worker in workers.items() if now >= self._due.get(key, now)]
        # One that came under a rollout is due by its new pace, not by the one that it was asked at before.
        due += [one for one in workers.values() if self._due.get(one.key, now) - now > one.every.total_seconds()]
        known = {(report.cluster, report.address): report for report in await self.store.load_models()}
        gone = [key for key in known if key not in workers]
        fresh = await self._ask_all(due, known)
        news = [report for report in fresh if _is_news(report, known.get((report.cluster, report.address)))]
        if news or gone:
            await self.store.record_models(news, gone=gone)
        self._due |= {worker.key: now + worker.every.total_seconds() for worker in due}
        self._tell([workers[report.cluster, report.address].version for report in news], news)

    async def _ask_all(self, due: Sequence[_Worker], known: Mapping[Key, ModelReport]) -> list[ModelReport]:
        found: list[ModelReport] = []

        async def ask(worker: _Worker) -> None:
            async with self._slots:
                try:
                    models, code = await self.source.ask(worker.address, host=worker.host, within=WITHIN)
                except UnavailableError as exc:
                    before = known.get(worker.key) or ModelReport(*worker.key)
                    found.append(dataclasses.replace(before, words=str(exc)))
                else:
                    found.append(ModelReport(*worker.key, models, code, at=self.clock.now()))

        async with asyncio.TaskGroup() as tasks:
            for worker in due:
                tasks.create_task(ask(worker), name=f"ask {worker.address}")
        return found

    def _tell(self, versions: Sequence[Version], news: Sequence[ModelReport]) -> None:
        """Log where a worker begins to deviate from its version's pin, or does no longer."""
        for version, report in zip(versions, news, strict=True):
            key, words = (report.cluster, report.address), deviations(version, [report])
            if words and words != self._said.get(key, ()):
                log.warning("model.deviates", version=version.name, words=words[0])
            elif self._said.get(key) and not words:
                log.info("model.as_pinned", version=version.name, address=report.address)
            self._said[key] = words


def _is_news(report: ModelReport, known: ModelReport | None) -> bool:
    if known is None or dataclasses.replace(report, at=known.at) != known or (report.at and not known.at):
        return True
    return report.at is not None and known.at is not None and report.at - known.at >= RENEWED


def _workers(desired: Desired) -> list[_Worker]:
    found: list[_Worker] = []
    for service in desired.services:
        rollout = service.rollout
        for version in service.revision.spec.versions:
            if version.model is None:
                continue
            every = EAGER if rollout is not None and rollout.candidate == version.name else CALM
            for endpoint in version.endpoints:
                addresses = (endpoint.host,) if endpoint.is_address else desired.addresses.get(endpoint.host, ())
                found += [_Worker(version, _joined(address, endpoint), _host(endpoint), every) for address in addresses]
    return found


def _joined(address: str, endpoint: Endpoint) -> str:
    return f"[{address}]:{endpoint.port}" if ":" in address else f"{address}:{endpoint.port}"


def _host(endpoint: Endpoint) -> str:
    return _joined(endpoint.host, endpoint)
