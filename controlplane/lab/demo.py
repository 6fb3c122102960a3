"""The main job, shown: real photos through a real Envoy while a good version is promoted and four bad ones go back.

Nothing here decides anything: the demo starts the same programs that a user starts, asks for rollouts over REST, and
measures from outside, as a client. What it sets small (and says so) are times, bounds, picture size and rate; the
judge's code and its alpha are production's.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import enum
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controlplane.api.answers import StatusView
from controlplane.clock import Clock, SystemClock
from controlplane.errors import ControlPlaneError
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.demo_report import (
    FAULT_HEADER,
    VERSION_HEADER,
    Row,
    Span,
    closing_table,
    config_failures,
    contact_sheet,
    json_report,
    mean_chroma,
    measure,
)
from controlplane.lab.load import LoadPlan, LoadProcess, Records
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, run_program
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import Stack, program

SERVICE = "colorize"
PHOTO_PX = 192
SHEET_PHOTOS = 5
COMPARED_PHOTOS = 16
"""Photos of the picture gate, of 66: the story should go on."""
CLIENT_TIMEOUT_S = 8.0
CALIBRATION_S = 6.0
CHAPTER_TIMEOUT = dt.timedelta(minutes=6)
LOG_COLUMNS = 116
"""Width of the output where it goes into a file, so that the table's sentences stay readable."""
POLL = dt.timedelta(milliseconds=500)
QUEUEING = 2.5
"""A photo that takes this many times longer under load than alone has waited for others."""
MAX_RATE, MIN_RATE = 16.0, 3.0
BUSY_SHARE = 0.45
"""Share of one core that the photos may cost: the demo must not mistake a full machine for a bad version."""
ERROR_MAX = 0.02
MIN_CHROMA = 3.0
"""Below this (0..255) a sheet's pictures would be grey ones; the shipped models reach several times as much."""
SLOW_FACTOR = 1.8
"""The demo's latency bound as a multiple of what v1 needs here for 95 % of its photos."""


class Fault(enum.Enum):
    """What is wrong with a version."""

    NONE = "none"
    ERRORS = "errors"
    SLOW = "slow"
    HANG = "hang"
    COLOURS = "colours"


FAULT_FLAGS = {
    Fault.NONE: (),
    Fault.ERRORS: ("--fault-errors", "0.2"),
    Fault.SLOW: ("--fault-delay-factor", "3"),
    Fault.HANG: ("--fault-hang", "1"),
    Fault.COLOURS: ("--fault-picture", "inverted"),
}
"""The flags of a worker with each fault."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chapter:
    """One rollout of the story: its version, what is wrong with it, and how it must end.

    *pictures*: whether its pictures are compared with v1's before any user gets one.
    """

    version: str
    title: str
    fault: Fault
    expected: str
    steps: tuple[str, ...]
    pictures: bool = False


STORY = (
    Chapter("v2", "v2 is healthy", Fault.NONE, "promoted", ("5%", "25%", "50%", "100%"), pictures=True),
    Chapter("v3", "v3 fails 20 % of its requests", Fault.ERRORS, "rolled_back", ("25%", "50%", "100%")),
    Chapter("v4", "v4 is three times slower", Fault.SLOW, "rolled_back", ("25%", "50%", "100%")),
    Chapter("v5", "v5 hangs", Fault.HANG, "rolled_back", ("25%", "50%", "100%")),
    Chapter("v6", "v6 inverts colours", Fault.COLOURS, "rolled_back", ("25%", "50%", "100%"), pictures=True),
)
MODELS = {"person": "person", "building": "building", "v1": "v1"} | {chapter.version: "v2" for chapter in STORY}
FAULTS = {chapter.version: chapter.fault for chapter in STORY}


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """What the demo sets from what this machine can do: photos per second, and the latency objective's bound."""

    rate: float
    threshold_ms: float


class Screen:
    """Live progress on a terminal, one line per change elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._last = ""

    def say(self, words: str) -> None:
        """Print one line."""
        self.console.print(words, highlight=False)

    @contextlib.contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Frame one rollout."""
        self.console.rule(f"[bold]{title}", align="left")
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    def show(self, status: StatusView) -> None:
        """Show where the rollout stands: a line for each change, and on a terminal the evidence as it grows."""
        rollout = status.rollout
        if rollout is None:
            return
        line = f"{rollout.candidate} {rollout.phase}, {rollout.weight} ({status.acks.words})"
        if self._live is not None:
            self._live.update(Group(Text(f"  {line}", style="cyan"), evidence_table(rollout.evidence)))
        if line != self._last:
            self._last = line
            self.say(f"  {line}")


def evidence_table(evidence: Mapping[str, Any] | None) -> Table:
    """Return the judge's present view of each objective."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    for objective in (evidence or {}).get("objectives", ()):
        odds = objective.get("odds")
        table.add_row("", str(objective.get("name")), f"evidence 1:{odds:.3g}" if odds else "")
    table.add_row("", str((evidence or {}).get("reason", "")), "")
    return table


class Demo:
    """One run of the story.

    Args:
        directory: Where the run writes: database, logs, photos, pictures.
        screen: Where it tells.
        clock: For waiting and measuring.
    """

    def __init__(self, *, directory: Path, screen: Screen, clock: Clock) -> None:
        self._directory = directory
        self._screen = screen
        self._clock = clock
        self._listener, *ports = free_ports(1 + len(MODELS))
        self._worker_ports = dict(zip(MODELS, ports, strict=True))
        self._stack = Stack(directory=directory / "control-plane", clock=clock, variant="delta")
        self.sheet = directory / "contact-sheet.png"

    async def run(self, *, stay: bool) -> tuple[list[Row], dict[str, Any]]:
        """Tell the whole story; return the closing table and the report."""
        began = self._clock.steady()
        photos = prepare_photos(self._directory / "photos")
        async with contextlib.AsyncExitStack() as running:
            await self._start(running)
            pace = await self._calibrate(photos)
            await self._apply(pace)
            await self._draw_sheet(photos)
            load = await running.enter_async_context(self._load(photos, "clients", rate=pace.rate))
            spans = [(chapter, *await self._tell(chapter)) for chapter in STORY]
            load.stop()
            records = (await load.wait_records(at_most=dt.timedelta(seconds=60)))["clients"]
            rows, report = self._sum_up(spans, records, began)
            self._screen.console.print(closing_table(rows))
            self._close(report)
            if stay:
                await self._stay()
        return rows, report

    async def _start(self, running: contextlib.AsyncExitStack) -> None:
        self._screen.say("Starting the control plane, one Envoy and eight workers (person, building, v1 to v6) …")
        for version, port in self._worker_ports.items():
            worker = ServerProcess(
                [program("hueshift-worker"), "serve", *worker_flags(version, port)],
                log_file=self._directory / f"worker-{version}.log",
            )
            running.push_async_callback(worker.stop)
            await worker.start()
        await running.enter_async_context(self._stack)
        async with httpx.AsyncClient(trust_env=False) as client:
            for version, port in self._worker_ports.items():
                await self._wait_worker(client, version, port)

    async def _wait_worker(self, client: httpx.AsyncClient, version: str, port: int) -> None:
        async def ask() -> bool | None:
            try:
                return True if (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success else None
            except httpx.TransportError:
                return None

        await wait_for_answer(ask, what=f"worker {version}", clock=self._clock, at_most=dt.timedelta(minutes=2))

    async def _calibrate(self, photos: Sequence[Path]) -> Pace:
        """Find what this machine can do: first one photo at a time, then v1 under the demo's own load."""
        await self._apply(Pace(rate=MIN_RATE, threshold_ms=10_000))
        await self._stack.wait_listener(self._listener)
        await self._stack.api.wait_fleet()
        alone = await self._measure(photos, "alone", rate=None, connections=1, seconds=2.0)
        rate = float(np.clip(BUSY_SHARE * 1000 / np.median(alone.duration_ms), MIN_RATE, MAX_RATE))
        loaded = await self._measure(photos, "loaded", rate=rate, connections=64, seconds=CALIBRATION_S)
        while rate > MIN_RATE and np.median(loaded.duration_ms) > QUEUEING * np.median(alone.duration_ms):
            # Photos wait for each other: this machine has no room for so many.
            rate = max(rate / 2, MIN_RATE)
            loaded = await self._measure(photos, "loaded", rate=rate, connections=64, seconds=CALIBRATION_S)
        p95 = float(np.percentile(loaded.duration_ms[loaded.ok], 95))
        pace = Pace(rate=round(rate, 1), threshold_ms=round(max(SLOW_FACTOR * p95, 50.0)))
        self._screen.say(
            f"v1 needs {np.median(loaded.duration_ms[loaded.ok]):.0f} ms for a photo (95 % within {p95:.0f} ms).\n"
            f"Set small for the demo: {PHOTO_PX} px photos at {pace.rate:g}/s; holds of 5 s, a bake of 10 s; "
            f"first step 5 % (25 % for the bad versions);\nSLO: at most {ERROR_MAX:.0%} errors, 95 % within "
            f"{pace.threshold_ms:g} ms. The judge and its alpha (1 % false rollbacks per rollout) are production's."
        )
        return pace

    async def _measure(
        self, photos: Sequence[Path], name: str, *, rate: float | None, connections: int, seconds: float
    ) -> Records:
        async with self._load(photos, name, rate=rate, connections=connections, seconds=seconds) as load:
            return (await load.wait_records(at_most=dt.timedelta(seconds=seconds + 60)))[name]

    def _load(
        self,
        photos: Sequence[Path],
        name: str,
        *,
        rate: float | None,
        connections: int = 256,
        seconds: float = 3600.0,
    ) -> LoadProcess:
        plan = LoadPlan(
            port=self._listener,
            name=name,
            method="POST",
            path="/repair",
            headers={"content-type": "image/jpeg", "accept": "image/jpeg"},
            body_files=tuple(str(photo) for photo in photos),
            rate=rate,
            connections=connections,
            duration_s=seconds,
            timeout_s=CLIENT_TIMEOUT_S,
            watch=(VERSION_HEADER, FAULT_HEADER),
        )
        return LoadProcess([plan], directory=self._directory / f"load-{name}")

    async def _apply(self, pace: Pace) -> None:
        await self._stack.api.apply(
            {
                "service": SERVICE,
                "listener": {"address": "127.0.0.1", "port": self._listener},
                "versions": [
                    {"name": version, "endpoints": [f"127.0.0.1:{port}"]}
                    for version, port in self._worker_ports.items()
                ],
                "routes": [
                    *(
                        {
                            "name": version,
                            "match": {"headers": [{"name": "x-model-type", "exact": version}]},
                            "version": version,
                        }
                        for version in ("person", "building", "v1", "v2")
                    ),
                    {"name": "repair", "match": {"prefix": "/repair"}, "split": True},
                ],
                "split": {"v1": "100%"},
                "slos": [
                    {"name": "errors", "kind": "error_rate", "max": f"{ERROR_MAX:.0%}"},
                    {
                        "name": "latency",
                        "kind": "latency",
                        "threshold": f"{pace.threshold_ms:g}ms",
                        "quantile": "95%",
                    },
                    {"name": "pictures", "kind": "quality", "photos": COMPARED_PHOTOS},
                ],
            }
        )

    async def _draw_sheet(self, photos: Sequence[Path]) -> None:
        """Colour some photos with v1 and v2, through Envoy like every client, and lay them out side by side."""
        columns: dict[str, list[bytes]] = {"before": [photo.read_bytes() for photo in photos[:SHEET_PHOTOS]]}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._listener}", trust_env=False) as client:
            for version in ("v1", "v2"):
                headers = {"content-type": "image/jpeg", "x-model-type": version}
                columns[version] = [
                    (await client.post("/repair", content=before, headers=headers)).raise_for_status().content
                    for before in columns["before"]
                ]
        if (
            min(np.mean([mean_chroma(picture) for picture in columns[version]]) for version in ("v1", "v2"))
            < MIN_CHROMA
        ):
            raise DemoError("the workers' pictures are grey")
        contact_sheet(columns).save(self.sheet)

    async def _tell(self, chapter: Chapter) -> tuple[Span, StatusView]:
        began = self._clock.steady()
        steps: list[dict[str, Any]] = [{"weight": weight, "hold": "5s"} for weight in chapter.steps]
        steps[-1]["hold"] = "10s"
        steps[0]["quality"] = chapter.pictures
        plan = {"steps": steps, "deadline": "5m", "prepare_timeout": "30s"}
        with self._screen.chapter(chapter.title):
            await self._stack.api.start(SERVICE, to=chapter.version, plan=plan, why=chapter.title)

            async def ask() -> StatusView | None:
                status = await self._stack.api.status(SERVICE)
                self._screen.show(status)
                return status if status.rollout and not status.rollout.active else None

            status = await wait_for_answer(
                ask, what=chapter.title, clock=self._clock, at_most=CHAPTER_TIMEOUT, every=POLL
            )
        if status.rollout is not None:
            self._screen.say(f"  [dim]{status.rollout.words}[/]")
        span = Span(
            version=chapter.version,
            began=began,
            ended=self._clock.steady(),
            hangs=chapter.fault is Fault.HANG,
        )
        return span, status

    def _sum_up(
        self, told: Sequence[tuple[Chapter, Span, StatusView]], records: Records, began: float
    ) -> tuple[list[Row], dict[str, Any]]:
        rows = []
        for chapter, span, status in told:
            lasted, bad, requests = measure(records, span)
            rollout = status.rollout
            rows.append(
                Row(
                    service=SERVICE,
                    version=chapter.version,
                    expected=chapter.expected,
                    outcome=(rollout.outcome if rollout else None) or "undecided",
                    evidence=rollout.words if rollout else "",
                    first_bad_to_last_bad_s=lasted,
                    bad_responses=bad,
                    requests=requests,
                )
            )
        report = json_report(
            rows,
            failures=config_failures(records, [span for _, span, _ in told]),
            requests=len(records),
            seconds=self._clock.steady() - began,
            sheet=str(self.sheet),
        )
        failures = records.failures()
        if report["config_failures"]:
            self._screen.say(f"[red]Failures that nobody injected: {failures}[/]")
        return rows, report

    def _close(self, report: Mapping[str, Any]) -> None:
        self._screen.say(
            f"{report['requests']} requests in {report['seconds']:g} s; failed because of configuration changes: "
            f"[bold]{report['config_failures']}[/]\nBefore | v1 | v2: {os.path.relpath(self.sheet)}"
        )

    async def _stay(self) -> None:
        api, admin = self._stack.ports.api, self._stack.ports.admins[0]
        key = self._directory / "control-plane" / "admin.key"
        self._screen.say(
            f"\nEverything stays up. Envoy: http://127.0.0.1:{self._listener}/repair (admin {admin}).\n"
            "In another terminal:\n"
            f"  export HUESHIFT_URL=http://127.0.0.1:{api} HUESHIFT_API_KEY=$(cat {key})\n"
            f"  .venv/bin/hueshift get {SERVICE} -w\n"
            f"  .venv/bin/hueshift start {SERVICE} --to v1\n"
            "Press Enter to end."
        )
        await asyncio.to_thread(sys.stdin.readline)


class DemoError(ControlPlaneError):
    """The demo's own promise is broken."""


def worker_flags(version: str, port: int) -> list[str]:
    """Return the flags of a version's worker; room for every request that a hanging one holds on to."""
    flags = ["--model", MODELS[version], "--label", version, "--port", str(port), "--queue", "256"]
    return [*flags, *FAULT_FLAGS[FAULTS.get(version, Fault.NONE)]]


def prepare_photos(directory: Path) -> list[Path]:
    """Write the worker's sample photos, grey and small, as JPEG files; return them in order."""
    directory.mkdir(parents=True, exist_ok=True)
    samples = sorted((Path(__file__).parents[2] / "inference_worker" / "samples").glob("*.jpg"))
    written = []
    for sample in samples:
        with Image.open(sample) as photo:
            grey = photo.convert("L")
        grey.thumbnail((PHOTO_PX, PHOTO_PX))
        encoded = io.BytesIO()
        grey.convert("RGB").save(encoded, "JPEG", quality=90)
        path = directory / sample.name
        path.write_bytes(encoded.getvalue())
        written.append(path)
    return written


def main(*, json_file: Path | None = None, svg_file: Path | None = None, directory: Path = Path("var/demo")) -> int:
    """Run the demo; return 0 only if every rollout ended as it must and no configuration change cost a request.

    Args:
        json_file: Where the closing table goes, for programs.
        svg_file: Where a picture of the output goes, as the README shows it.
        directory: Where the run works; emptied first.
    """
    console = Console(record=svg_file is not None)
    if not console.is_terminal:
        console.width = LOG_COLUMNS
    stay = console.is_terminal and sys.stdin.isatty()
    shutil.rmtree(directory, ignore_errors=True)  # each run tells the story from its beginning
    demo = Demo(directory=directory.absolute(), screen=Screen(console), clock=SystemClock())
    try:
        rows, report = run_program(demo.run(stay=stay))
    except EndedEarlyError as exc:
        console.print(f"[red]demo: {exc}[/] (logs: {directory})", highlight=False)
        return exc.code
    if svg_file is not None:
        console.save_svg(str(svg_file), title="make demo")
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row.is_right for row in rows) and report["config_failures"] == 0 else 1
