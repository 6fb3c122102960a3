"""What the web pages cost: how large they are, how soon one can work with them, how far behind, whether they grow.

Control plane, Envoy and workers are real, and so is the browser; beside the services whose pages are measured there are
`SERVICES` that no Envoy serves, and one has a year behind it. All of it runs on this machine, so the browser, which
takes most of the CPU, competes with what it looks at.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import gzip
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
from playwright.async_api import Browser, CDPSession, Page, Request, StorageState, expect

from controlplane import running
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.bench_jobs import Figure
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, console, run_program
from controlplane.ports import RolloutId
from controlplane.settings import read_settings
from controlplane.store import open_store
from controlplane.store.schema import upgrade
from controlplane.ui.app import STATIC
from controlplane.wake import WakeBoard
from tests.busy_day import JUMP_S, BusyDay
from tests.chromium import running_chromium
from tests.small_pictures import make_png
from tests.ui_place import CLOCK, SERVICE, Place, document, enter, running_place, send
from tests.ui_year import write_services, write_year

MAX_BUNDLE_KB: Final = 100.0
MAX_READY_S: Final = 1.0
MAX_BEHIND_S: Final = 2.0
MAX_REQUESTS: Final = 15
MAX_MORE_NODES: Final = 1.3
"""The last event may have come between two redraws of the timeline, which has a tenth of all nodes."""
MAX_GROWN_MIB: Final = 1.0
"""Heaps breathe by half of that with answers on their way; a day of points that is kept has some 80 MiB."""
MAX_POINTS: Final = 900

VETERAN: Final = "veteran"
SERVICES: Final = 500
CHANGES: Final = 12
LEAST_YEAR_D: Final = 360.0
PATIENCE: Final = dt.timedelta(seconds=60)
PAUSE: Final = dt.timedelta(milliseconds=200)
"""Between a user's photos: who measures pages does not want the workers to have the machine for themselves."""
OFTEN: Final = dt.timedelta(milliseconds=10)
QUIET: Final = "quiet"
BURSTS: Final = 10
BURST: Final = 5
HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
MIB: Final = 1024**2
WATCH: Final = (pathlib.Path(__file__).parent / "data" / "ui_bench.js").read_text()
"""Runs in the page before its own script: notes when it is ready, and when what it shows changes."""


class Bench:
    """Measures one figure after the other and tells of each at once."""

    def __init__(
        self,
        place: Place,
        browser: Browser,
        session: StorageState,
        quiet: int,
        loads: int,
        tell: Callable[[Figure], None],
    ) -> None:
        self.place = place
        self.browser = browser
        self.session = session
        self.quiet = quiet
        self.loads = loads
        self.figures: list[Figure] = []
        self._tell = tell

    def note(self, what: str, name: str, value: float, unit: str, bound: float, *, at_least: bool = False) -> None:
        figure = Figure(what, name, value, unit, bound, at_least)
        self.figures.append(figure)
        self._tell(figure)

    def note_all(self, what: str, name: str, values: list[float], bound: float) -> None:
        self.note(what, f"{name}, median of {len(values)}", statistics.median(values), "s", bound)
        self.note(what, f"{name}, worst", max(values), "s", bound)

    async def measure(self) -> None:
        size = sum(len(gzip.compress(file.read_bytes())) for file in sorted(STATIC.iterdir()))
        self.note("all pages", "gzip", size / 1000, "kB", MAX_BUNDLE_KB)
        rollout = await self._start_canary(SERVICE)
        await self._start_canary(VETERAN)
        await self._load_list()  # first: it is the least of them, and everything here has just been started
        await self._load_rollouts("rollout page", SERVICE)
        await self._load_year()
        await self._follow_weights(rollout)
        await self._follow_traffic()
        await self._stay_for_a_day()

    @contextlib.asynccontextmanager
    async def opened(self, ready: str) -> AsyncIterator[Page]:
        """Open a page of somebody who is logged in, in a browser that has loaded nothing yet.

        *ready* names what `ui_bench.js` waits for.
        """
        context = await self.browser.new_context(
            storage_state=self.session, viewport={"width": 1280, "height": 900}, locale="en-GB"
        )
        try:
            page = await context.new_page()
            await page.add_init_script(f"{WATCH};watchReady({json.dumps(ready)})")
            yield page
        finally:
            await context.close()

    async def _start_canary(self, service: str) -> RolloutId:
        weights = [*range(5, 5 * CHANGES + 6, 5), 100]
        steps = [{"weight": f"{weight}%", "hold": "30m", "quality": False} for weight in weights]
        api = self.place.stack.api
        started = RolloutId(await api.start(service, to="twin", plan={"steps": steps}, why="bench"))
        await api.wait_rollout(started, lambda rollout: rollout.state == "baking", at_most=PATIENCE)
        return started

    async def _load_rollouts(self, what: str, service: str) -> None:
        found = []
        for _ in range(self.loads):
            async with self.opened("rollout") as page:
                await page.goto(f"{self.place.url}/services/{service}")
                found.append(await ready_s(page))
        self.note_all(what, "interactive after a cold load", found, MAX_READY_S)

    async def _load_list(self) -> None:
        found, requests = [], 0
        for _ in range(self.loads):
            async with self.opened("list") as page:
                asked: list[Request] = []
                page.on("request", functools.partial(list.append, asked))
                await page.goto(self.place.url)
                found.append(await ready_s(page))
                await expect(page.get_by_role("status").filter(has_text=" of ")).to_have_text(f"1 of {SERVICES}")
                requests = max(requests, len(asked))
        what = f"list of {SERVICES} services"
        self.note_all(what, "one of them found after a cold load", found, MAX_READY_S)
        self.note(what, "requests, files included,", requests, "", MAX_REQUESTS)

    async def _load_year(self) -> None:
        await self._load_rollouts("page with a year", VETERAN)
        found, days = [], []
        for _ in range(self.loads):
            async with self.opened("rollout") as page:
                await page.goto(f"{self.place.url}/services/{VETERAN}")
                await ready_s(page)
                took_ms, span_s = await page.evaluate("showYear()")
                found.append(took_ms / 1000)
                days.append(span_s / DAY_S)
        self.note_all("page with a year", "from the click to the year in the charts", found, MAX_READY_S)
        self.note("page with a year", "in the charts", min(days), "days", LEAST_YEAR_D, at_least=True)

    async def _follow_weights(self, rollout: RolloutId) -> None:
        """Change the weight again and again; compare when Envoy runs it with when the page says so."""
        behind = []
        async with self.opened("rollout") as page:
            await page.goto(self.place.page)
            await ready_s(page)
            for number in range(2, CHANGES + 2):
                async with asyncio.TaskGroup() as tasks:
                    shown = tasks.create_task(page.evaluate("asked => whenShown(asked)", ["acked", f"{5 * number} %"]))
                    await self.place.stack.api.command(SERVICE, "promote")
                    running_since = await self._wait_envoy_runs(500 * number)
                behind.append(max(0.0, shown.result() / 1000 - running_since))
                await self.place.stack.api.wait_rollout(
                    rollout, lambda found: found.state == "baking", at_most=PATIENCE, every=OFTEN
                )
        self.note_all("AckedWeight", "behind Envoy", behind, MAX_BEHIND_S)

    async def _wait_envoy_runs(self, weight_bp: int) -> float:
        """Return when (unix seconds) Envoy's own dump last did not have so much for the candidate of `SERVICE`."""
        admin = f"http://127.0.0.1:{self.place.stack.ports.admins[0]}/config_dump?resource=dynamic_route_configs"
        before = CLOCK.now().timestamp()
        async with httpx.AsyncClient(trust_env=False) as client:

            async def ask() -> float | None:
                nonlocal before
                asked = CLOCK.now().timestamp()
                if (f"{SERVICE}-twin", weight_bp) in weights_in((await client.get(admin)).json()):
                    return before
                before = asked
                return None

            return await wait_for_answer(ask, what=f"{weight_bp} in Envoy", clock=CLOCK, at_most=PATIENCE, every=OFTEN)

    async def _follow_traffic(self) -> None:
        """Send a few photos after a silence, again and again; compare when they went with when a chart has them."""
        behind = []
        async with self.opened("quiet") as page, httpx.AsyncClient(trust_env=False, timeout=30) as user:
            await page.goto(f"{self.place.url}/services/{QUIET}")
            await ready_s(page)
            for number in range(BURSTS):
                await page.evaluate("whenQuiet()")
                # Reports of Envoys come by the second: each burst begins at another tenth of one.
                await CLOCK.sleep(dt.timedelta(seconds=1 - CLOCK.now().timestamp() % 1 + number / BURSTS))
                async with asyncio.TaskGroup() as tasks:
                    shown = tasks.create_task(page.evaluate("whenBusy()"))
                    begun = CLOCK.now().timestamp()
                    for _ in range(BURST):
                        await post_photo(user, self.quiet)
                behind.append(shown.result() / 1000 - begun)
        self.note_all("chart", "behind the first request", behind, MAX_BEHIND_S)

    async def _stay_for_a_day(self) -> None:
        day = BusyDay()
        sizes: dict[int, tuple[float, float, int]] = {}
        async with self.opened("rollout") as page:
            cdp = await page.context.new_cdp_session(page)
            await cdp.send("Performance.enable")
            await page.clock.install()
            await day.take_over(page)
            await page.goto(self.place.page)
            await expect(page.locator(".chart").first).not_to_have_attribute("data-points", "0")
            for passed in range(JUMP_S, DAY_S + 1, JUMP_S):
                await day.pass_some(page)
                if passed in {HOUR_S, DAY_S}:
                    points = int(await page.locator(".chart").first.get_attribute("data-points") or 0)
                    sizes[passed] = (*await size_of(cdp), points)
        (heap, nodes, _), (heap_then, nodes_then, points) = sizes[HOUR_S], sizes[DAY_S]
        what = "page open for a day"
        grown = (heap_then - heap) / MIB
        self.note(
            what, f"JS heap, from {heap / MIB:.2f} MiB after 1 h, grows until 24 h by", grown, "MiB", MAX_GROWN_MIB
        )
        self.note(what, "DOM nodes, from 1 h to 24 h, grow to the", nodes_then / nodes, "-fold", MAX_MORE_NODES)
        self.note(what, "points of a line after 24 h", points, "", MAX_POINTS)


async def ready_s(page: Page) -> float:
    """Return how long after the navigation the page was ready."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        return float(await page.evaluate("ready")) / 1000


async def size_of(cdp: CDPSession) -> tuple[float, float]:
    """Return what is left after a collection of garbage: bytes of JS heap, nodes."""
    await cdp.send("HeapProfiler.collectGarbage")
    told = {each["name"]: each["value"] for each in (await cdp.send("Performance.getMetrics"))["metrics"]}
    return told["JSHeapUsedSize"], told["Nodes"]


def weights_in(dump: Any) -> set[tuple[str, int]]:
    """Return the clusters that routes of an Envoy's dump share requests among, with their weights."""
    if isinstance(dump, list):
        return set().union(*map(weights_in, dump))
    if not isinstance(dump, dict):
        return set()
    own = {(dump["name"], dump["weight"])} if "weight" in dump and "name" in dump else set()
    return own.union(*map(weights_in, dump.values()))


async def post_photo(user: httpx.AsyncClient, listener: int) -> None:
    """Have a photo coloured."""
    photo = make_png(b"a user's photo", channels=1)
    url = f"http://127.0.0.1:{listener}/repair"
    await user.post(url, content=photo, headers={"content-type": "image/png"})


@contextlib.asynccontextmanager
async def opened_bench(folder: pathlib.Path, loads: int, tell: Callable[[Figure], None]) -> AsyncIterator[Bench]:
    """Write the past, and run everything beside it."""
    url = f"sqlite:///{folder / 'hueshift.sqlite3'}"
    await upgrade(url)
    async with await open_store(url, board=WakeBoard(), clock=CLOCK) as store:
        await write_services(store, SERVICES - len((SERVICE, VETERAN, QUIET)), now=CLOCK.now())
        await write_year(store, VETERAN, now=CLOCK.now())
    async with running_place(folder, pause=PAUSE) as place, running_chromium() as browser, asyncio.TaskGroup() as tasks:
        listeners = dict(zip((VETERAN, QUIET), free_ports(2), strict=True))
        for name, listener in listeners.items():
            await place.stack.api.apply(document(name, listener, place.workers))
            await place.stack.wait_listener(listener)
        await place.stack.api.wait_fleet()
        user = tasks.create_task(send(listeners[VETERAN], pause=PAUSE))
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(place.url)
        await enter(page, place.keys["admin"])
        session = await context.storage_state()
        await context.close()
        yield Bench(place, browser, session, listeners[QUIET], loads, tell)
        user.cancel()


async def run_bench(folder: pathlib.Path, loads: int, tell: Callable[[Figure], None]) -> list[Figure]:
    """Measure everything."""
    async with opened_bench(folder, loads, tell) as bench:
        await bench.measure()
    return bench.figures


def main() -> int:
    """Run the bench, print a line per figure, and return 0 if all hold."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--loads", type=int, default=12, help="how often each page is loaded cold")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the figures")
    given = parser.parse_args()
    running.configure_logging(read_settings(log_level="error"))
    console().print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="hueshift-bench-ui-", ignore_cleanup_errors=True) as name:
        try:
            work = run_bench(pathlib.Path(name), given.loads, lambda each: console().print(each.line(), soft_wrap=True))
            figures = run_program(work)
        except EndedEarlyError as exc:
            console(stderr=True).print(f"bench ui: {exc}")
            return exc.code
    good = all(figure.holds for figure in figures)
    if given.json is not None:
        rows = [{**dataclasses.asdict(each), "holds": each.holds} for each in figures]
        given.json.write_text(json.dumps({"loads": given.loads, "figures": rows, "holds": good}, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
