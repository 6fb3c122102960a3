"""Stand-ins for what tests must not have: a clock that passes when told to, an Envoy that says what a test wants."""

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path

from controlplane.errors import UnavailableError
from controlplane.ports import Compared, VersionWorkers, WorstPicture
from controlplane.rollout.quality import QualityVerdict
from controlplane.rollout.slo import QualitySlo
from controlplane.traffic.provenance import ModelReport, ServedModel
from tests import builders


class ManualClock:
    """A `Clock` that stands still unless someone sleeps on it or moves it."""

    def __init__(self, now: dt.datetime = builders.NOW) -> None:
        self._now = now
        self._steady = 1000.0

    def now(self) -> dt.datetime:
        return self._now

    def steady(self) -> float:
        return self._steady

    async def sleep(self, delay: dt.timedelta) -> None:
        self.move(delay)
        await asyncio.sleep(0)  # noqa: TID251 - lets others run; takes no time

    def move(self, delay: dt.timedelta) -> None:
        self._now += delay
        self._steady += delay.total_seconds()


Answer = float | None | str
"""A number, no data, or the words of a refusal."""


class FakeMetrics:
    """A `MetricSource` that answers as a test says; a query that it knows nothing of has no data."""

    def __init__(self, answers: dict[str, Answer] | None = None) -> None:
        self.answers: dict[str, Answer] = answers or {}
        self.asked: list[str] = []
        self.answer: Callable[[str], Answer] = self.answers.get
        """What a query gives now."""
        self.hanging = "\0"
        """Queries with this in them wait for `released`."""
        self.released = asyncio.Event()
        self.under_way = 0
        self.most_under_way = 0

    async def ask(self, query: str, *, within: dt.timedelta) -> float | None:
        self.asked.append(query)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.hanging in query:
            await self.released.wait()
        self.under_way -= 1
        answer = self.answer(query)
        if isinstance(answer, str):
            raise UnavailableError(answer.format(within=f"{within.total_seconds():g}"))
        return answer


class FakeGate:
    """A `PictureGate` whose versions paint as a test says.

    ``sound`` and ``vivid`` are styles, ``grey`` is broken; ``away`` does not answer and ``busy`` has no room.
    """

    def __init__(self) -> None:
        self.styles: dict[str, str] = {}
        """By version; one that is not in it is sound."""
        self.asked: list[tuple[VersionWorkers, VersionWorkers, QualitySlo]] = []
        self.released = asyncio.Event()
        """Comparisons wait for it."""
        self.released.set()

    async def compare(self, old: VersionWorkers, new: VersionWorkers, slo: QualitySlo) -> Compared:
        self.asked.append((old, new, slo))
        await self.released.wait()
        styles = [self.styles.get(version.name, "sound") for version in (old, new)]
        for version, style in zip((old, new), styles, strict=True):
            if style == "away":
                raise UnavailableError(f"{version.name}: {version.workers[0]}/repair does not answer")
            if style == "busy":
                raise UnavailableError(f"the workers of {version.name} were too busy")
            if style == "bug":
                raise LookupError(version)
        delta_e = 0.0 if styles[0] == styles[1] else 9.0
        verdict, words = QualityVerdict.OK, f"{new.name} is like {old.name}"
        if styles[1] == "grey":
            verdict, words = QualityVerdict.BLOCK, f"{new.name} is blocked: grey in 66 of 66 pictures"
        elif delta_e > slo.delta_e:
            verdict, words = QualityVerdict.DRIFT, f"{new.name} drifts from {old.name}: mean CIEDE2000 {delta_e:g}"
        measures = {"delta_e": {"value": delta_e, "low": delta_e, "high": delta_e}}
        worst = tuple(WorstPicture(f"photo {place}", "grey", b"\xff\xd8\xff") for place in range(1, 4))
        report: dict[str, object] = {
            "verdict": verdict.value,
            "sentence": words,
            "measures": measures,
            "findings": [],
            "notes": [],
        }
        return Compared(verdict, words, report, worst, old.name, new.name)


def make_envoy(folder: Path, body: str) -> Path:
    """Write a shell script that stands where Envoy's binary would; ``$4`` is the configuration that it is to judge."""
    program = folder / "envoy"
    program.write_text(f"#!/bin/sh\necho start >> {folder}/starts\n{body}\n")
    program.chmod(0o755)
    return program


def make_picky_envoy(folder: Path, refused: str) -> Path:
    """Write one that refuses every configuration with *refused* in it."""
    complain = "echo \"[x] error initializing configuration '$4': no good\" >&2; exit 1"
    return make_envoy(folder, f"if grep -aq '{refused}' \"$4\"; then {complain}; fi")


def envoy_starts(folder: Path) -> int:
    """Return how often it was started."""
    starts = folder / "starts"
    return len(starts.read_text().splitlines()) if starts.exists() else 0


class FakeModels:
    """A `ModelSource` of workers that say what a test wants, by address; one it knows nothing of cannot be reached."""

    def __init__(self, *reports: ModelReport) -> None:
        self.reports = {report.address: report for report in reports}
        self.asked: list[tuple[str, str]] = []

    def say(self, report: ModelReport) -> None:
        self.reports[report.address] = report

    async def ask(self, address: str, *, host: str, within: dt.timedelta) -> tuple[tuple[ServedModel, ...], str]:
        self.asked.append((address, host))
        report = self.reports.get(address)
        if report is None or report.words:
            raise UnavailableError(report.words if report else f"it cannot be reached within {within}")
        return report.models, report.code_version
