"""The web pages as a release engineer meets them: a real browser, control plane, Envoy, and workers that colour."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from controlplane.lab.ports import free_ports
from tests.busy_day import JUMP_S, BusyDay
from tests.chromium import Visit, barriers, running_chromium, visiting
from tests.ui_place import Place, do, document, enter, expect_state, running_place

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

DAY_S: Final = 24 * 3600
MAX_POINTS: Final = 900
INTERACTIVE_MS: Final = 5_000
"""Generous: this machine may be busy. What a quiet one takes is measured by `make bench-ui`."""
COMMAND: Final = """async (verb) => { const session = await (await fetch("/v1/session")).json();
  const answer = await fetch(`/v1/services/colorize/rollout/${verb}`, {
    method: "POST", headers: { "X-Hueshift-CSRF": session.csrf } });
  return [answer.status, (await answer.json()).detail]; }"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with running_place(tmp_path_factory.mktemp("ui")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, place: Place) -> AsyncIterator[Visit]:
    async with visiting(browser, place.url) as opened:
        yield opened
        await opened.check_nothing_complained()


async def expect_refusal(browser: Browser, place: Place, action: str) -> None:
    """A viewer's button says why it does nothing, and the control plane refuses whoever goes around it."""
    async with visiting(browser, place.page) as visit:
        page = visit.page
        visit.expected = {403}
        await enter(page, place.keys["viewer"])
        button = page.get_by_role("button", name=action, exact=True)
        words = "Takes the role operator on colorize; you have only viewer."
        await expect(button).to_have_attribute("aria-disabled", "true")
        await expect(button).to_have_accessible_description(words)
        await button.click(force=True)
        await expect(page.get_by_role("status").filter(has_text=words)).to_have_text(f"{action}: {words}")
        await expect(page.get_by_role("dialog")).to_be_hidden()
        status, detail = await page.evaluate(COMMAND, action.lower())
        assert status == 403
        assert "has only the role viewer on 'colorize'" in detail
        await visit.check_nothing_complained()


async def test_a_canary_is_started_watched_paused_looked_at_approved_promoted_and_undone(
    browser: Browser, visit: Visit, place: Place
) -> None:
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

    await expect_refusal(browser, place, "Undo")
    await expect(page.get_by_role("button", name="Retry")).to_have_accessible_description("It did not fail.")
    await do(page, "Undo", reason="the nights are green", says="Gives traffic back to v1, the version before")
    await expect(page.get_by_text("all traffic of colorize goes back to v1")).to_be_visible()
    await expect(page.get_by_test_id("state")).to_contain_text("twin → v1")
    await expect_state(page, "promoted")
    await expect(page.get_by_test_id("acked")).to_have_text("100 % 1/1")
    status = await place.stack.api.status("colorize")
    assert status.rollout is not None
    assert (status.rollout.undoes, status.rollout.why) == (True, "the nights are green")
    assert {share.version: share.weight_bp for share in status.split if share.weight_bp} == {"v1": 10_000}

    await page.get_by_role("link", name="Audit").click()
    rows = page.get_by_role("listitem")
    await expect(rows.filter(has_text="they look alike")).to_contain_text("done")
    await expect(rows.filter(has_text="the nights are green")).to_contain_text("done")
    await expect(rows.filter(has_text="a-viewer").filter(has_text="undo").first).to_contain_text("denied")
    await page.get_by_role("link", name="Jobs").click()
    await expect(page.get_by_role("button", name="Choose photos")).to_be_visible()


async def test_a_breach_takes_all_traffic_back_before_the_readers_eyes_and_a_guests(
    browser: Browser, visit: Visit, place: Place
) -> None:
    page = visit.page
    await enter(page, place.keys["admin"])
    await page.goto(place.page)
    await expect(page.locator(".link")).to_have_text("Live")
    steps = [{"weight": "50%", "hold": "30m", "quality": False}, {"weight": "100%", "quality": False}]
    first = await place.stack.api.start("colorize", to="broken", plan={"steps": steps})
    await expect(page.get_by_test_id("state")).to_contain_text("broken")
    await expect_state(page, "rolled_back")
    await expect(page.locator(".announce")).to_have_text(re.compile("error rate|nearly every request fails"))
    await expect(page.get_by_test_id("set")).to_have_text("0 %")
    await expect(page.get_by_role("list", name="What happened")).to_contain_text("rolled back broken")

    await expect_refusal(browser, place, "Retry")
    await expect(page.get_by_role("button", name="Undo")).to_have_accessible_description("Nothing was promoted.")
    await do(page, "Retry", reason="the disk was full", says="Starts the rollout to broken again.")
    await expect(page.get_by_test_id("state")).not_to_contain_text(f"{first} ")
    await expect_state(page, "rolled_back")
    again = (await place.stack.api.status("colorize")).rollout
    assert again is not None
    assert again.id != first
    assert again.why == f"{first} once more: the disk was full"
    assert again.plan.model_dump() == (await place.stack.api.rollout(first)).plan.model_dump()
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
    status, detail = await page.evaluate(COMMAND, "abort")
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
    await page.goto(place.page)
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
        await page.goto(place.page)
        await page.get_by_role("button", name="Start").click()
        assert await barriers(page) == []
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name="Start")).to_be_focused()
        await visit.check_nothing_complained()


async def test_a_page_that_is_open_for_a_day_does_not_grow(browser: Browser, place: Place) -> None:
    day = BusyDay()
    async with visiting(browser, place.url) as visit:
        page = visit.page
        await enter(page, place.keys["admin"])
        await page.clock.install()
        await day.take_over(page)
        await page.goto(place.page)
        await expect(page.locator(".chart").first).not_to_have_attribute("data-points", "0")
        sizes: list[tuple[int, int]] = []
        for _ in range(DAY_S // JUMP_S):
            async with asyncio.timeout(30):
                await day.pass_some(page)
            shown = await page.locator(".chart").first.get_attribute("data-points")
            sizes.append((int(shown or 0), await page.evaluate("document.querySelectorAll('*').length")))
        assert day.points >= DAY_S
        assert max(points for points, _ in sizes) <= MAX_POINTS
        first, last = sizes[3], sizes[-1]
        assert last[1] <= first[1] + 20, "the document has grown"


READ: Final = "(path) => fetch(path).then((answer) => answer.json())"
STATUS: Final = "/v1/services/colorize/status?events=100"
SERVICES: Final = "/v1/services?limit=200"
WATCH: Final = """(row) => { window.states = new Set();
new MutationObserver(() => window.states.add(row.dataset.state)).observe(row, { attributeFilter: ["data-state"] }); }"""
SLOW: Final = {"steps": [{"weight": "25%", "hold": "30m", "quality": False}, {"weight": "100%", "quality": False}]}


class LateAnswer:
    """One answer of an earlier moment: it comes when the page has heard of a later one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._may_come = asyncio.Event()

    async def hold(self, page: Page, path: str, old: Any = None) -> None:
        """Have the next answer to *path* wait; it is *old*, or what it is when it is asked for."""

        async def answer(route: Route) -> None:
            body = old or await (await route.fetch()).json()
            self.asked.set()
            await self._may_come.wait()
            await route.fulfill(json=body)

        await page.route(lambda url: url.endswith(path), answer, times=1)

    def release(self) -> None:
        self._may_come.set()


async def test_an_answer_that_comes_late_takes_nothing_back_that_the_stream_told(visit: Visit, place: Place) -> None:
    page = visit.page
    await enter(page, place.keys["admin"])
    await place.stack.api.start("colorize", to="twin", plan=SLOW)
    await page.goto(place.page)
    await expect_state(page, "baking")
    late, old = LateAnswer(), await page.evaluate(READ, STATUS)
    old["events"].append({**old["events"][0], "number": 10**9, "words": "this was a moment ago"})
    await late.hold(page, STATUS, old)
    await do(page, "Pause", reason="look at the page")
    await expect_state(page, "paused")
    late.release()
    await expect(page.get_by_role("list", name="What happened")).to_contain_text("this was a moment ago")
    await expect_state(page, "paused")
    assert await page.get_by_test_id("state").get_attribute("data-state") == "paused"

    await page.goto(place.url)
    row = page.locator("[data-service='colorize']")
    await expect(row).to_have_attribute("data-state", "paused")
    await expect(row.locator("rect")).to_have_class(["share-0", "share-1"])  # the colours of the charts
    late = LateAnswer()
    await late.hold(page, SERVICES)
    ports = free_ports(2)
    await place.stack.api.apply(document("another", ports[0], place.workers))  # the page asks for what it does not know
    await late.asked.wait()
    await place.stack.api.command("colorize", "abort")
    await expect(row).to_have_attribute("data-state", "rolled_back")
    await row.evaluate(WATCH)
    late.release()
    another = page.locator("[data-service='another']")
    await expect(another).to_be_visible()
    assert await page.evaluate("[...window.states]") == []
    await expect(row.locator("rect")).to_have_class(["share-0"])
    late = LateAnswer()
    await late.hold(page, SERVICES)
    await place.stack.api.apply(document("third", ports[1], place.workers))
    await late.asked.wait()
    await place.stack.api.delete("another")
    await expect(another).to_have_count(0)
    late.release()
    await expect(page.locator("[data-service='third']")).to_be_visible()
    assert await another.count() == 0
    await place.stack.api.delete("third")
