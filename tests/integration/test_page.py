"""The page for photos as a person meets it: a real browser, a real control plane, Envoy, and a worker that colours."""

import asyncio
import dataclasses
import os
import pathlib
import re
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser, Locator, Page, Route, expect

from controlplane.lab.demo import prepare_photos
from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import Stack
from tests.chromium import Visit, barriers, drop, require_chromium, running_chromium, visiting
from tests.integration.test_jobs import Owner, running_stack
from tests.picture_worker import PictureWorker
from tests.workers import running_worker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]


KEPT = """(count) => new Promise((resolve) => { const opening = indexedDB.open("hueshift");
opening.onsuccess = () => { const all = opening.result.transaction("uploads").objectStore("uploads").count();
all.onsuccess = () => { opening.result.close(); resolve(all.result === count); }; }; })"""
"""Whether so many photos are kept in the browser's database."""
HIDE = """(hidden) => { Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
document.dispatchEvent(new Event("visibilitychange")); }"""
"""What a browser does whose tab goes into the background, or comes back."""

END_ELSEWHERE = """async () => { const { csrf } = await (await fetch("/v1/session")).json();
await fetch("/v1/session", { method: "DELETE", headers: { "X-Hueshift-CSRF": csrf } });
document.querySelector("[data-act='delete']:not([hidden])")?.click(); }"""
"""Another tab logs out, and then a button is pressed here, if there is one."""


@dataclasses.dataclass
class Place:
    """All that stands while this file's tests run."""

    stack: Stack
    owner: Owner
    worker: ServerProcess
    photos: list[pathlib.Path]
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.stack.ports.api}/jobs"

    async def submit(self, number: int) -> str:
        """Hand one of the photos in as a program does; return the job's id."""
        content = self.photos[number].read_bytes()
        answer = await self.owner.ask("POST", "/v1/jobs", params={"workflow_type": "photo"}, content=content)
        return str(answer.json()["id"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    require_chromium()
    folder = tmp_path_factory.mktemp("page")
    (port,) = free_ports(1)
    flags = ("--model", "v1", "--label", "v1", "--max-pixels", "100000")
    async with (
        running_worker(port, *flags, log_file=folder / "worker.log") as worker,
        running_stack(folder, PictureWorker(port=port)) as stack,
    ):
        owner = Owner(stack, folder)
        await owner.apply_kind(sizes={"min": 128, "max": 512, "default": 128})
        key = (folder / "admin.key").read_text().strip()
        yield Place(stack, owner, worker, prepare_photos(folder / "photos"), key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _no_jobs(place: Place) -> None:
    """Begin with an empty list, whatever the test before has left."""
    for job in (await place.owner.ask("GET", "/v1/jobs", params={"limit": 200})).json()["items"]:
        await place.owner.ask("DELETE", f"/v1/jobs/{job['id']}")


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, place: Place) -> AsyncIterator[Visit]:
    async with visiting(browser, place.url) as opened:
        yield opened
        await opened.check_nothing_complained()


async def enter(page: Page, key: str) -> None:
    await begin(page, key)
    await expect(page.locator(".link")).to_have_text("Live")
    await expect(page.get_by_role("button", name="Choose photos")).to_be_visible()


async def begin(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Log in").click()


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, exact=True))


async def expect_state(page: Page, name: str, state: str) -> None:
    await expect(card(page, name)).to_have_attribute("data-state", state)


def worker_of(place: Place) -> int:
    """Return the process that colours, for those who stop and wake it."""
    assert place.worker.pid is not None
    return place.worker.pid


async def test_the_figures_of_kinds_and_versions_are_shown_while_they_are_open(visit: Visit, place: Place) -> None:
    page = visit.page
    await enter(page, place.key)
    await place.submit(0)
    await expect(page.locator("#sum")).to_have_text("1 done")
    await page.get_by_text("How the jobs do").click()
    rows = page.get_by_role("region", name="Figures of kinds and versions").get_by_role("row")
    await expect(rows.filter(has=page.get_by_role("rowheader", name="photo"))).to_contain_text("%")
    await expect(rows.filter(has=page.get_by_role("rowheader", name="v1"))).to_contain_text(" s / ")
    assert await barriers(page) == []
    await page.get_by_label("Of the last").select_option("week")
    await expect(rows.filter(has=page.get_by_role("rowheader", name="v1"))).to_contain_text(" s / ")


async def test_photos_are_dropped_followed_compared_and_downloaded(visit: Visit, place: Place) -> None:
    page, photos = visit.page, place.photos[:3]
    await enter(page, place.key)
    await drop(page, "#drop", *photos)
    for photo in photos:
        await expect_state(page, photo.name, "done")
    await expect(page.get_by_role("listitem")).to_have_count(3)
    await expect(page.locator("#sum")).to_have_text("3 done")
    await expect(page.locator("#said")).to_contain_text("done")

    name = photos[0].name
    button = card(page, name).get_by_role("button", name="Compare:")
    await button.click()
    await expect(page.locator(".stage")).not_to_have_class(re.compile("loading"))
    slider = page.get_by_role("slider")
    await expect(slider).to_be_focused()
    await expect(slider).to_have_value("50")
    await page.keyboard.press("ArrowLeft")
    await expect(slider).to_have_attribute("aria-valuetext", "49 % before, 51 % after")
    await page.keyboard.press("Home")
    assert (
        await page.locator(".stage .before").evaluate("(layer) => getComputedStyle(layer).clipPath")
        == "inset(0px 100% 0px 0px)"
    )
    box = await page.locator(".stage").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + 5, box["y"] + 50)
    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=4)
    await page.mouse.up()
    await expect(slider).to_have_value("75")
    sizes = "(image) => [image.naturalWidth > 1, image.complete]"
    pictures = page.locator(".stage img")
    await expect(pictures).to_have_count(2)
    for side in range(2):
        assert await pictures.nth(side).evaluate(sizes) == [True, True]
    await page.keyboard.press("Escape")
    await expect(button).to_be_focused()

    async with page.expect_download() as downloading:
        await card(page, name).get_by_role("button", name="Download:").click()
    download = await downloading.value
    jobs = (await place.owner.ask("GET", "/v1/jobs")).json()["items"]
    results = {(await place.owner.ask("GET", f"/v1/jobs/{job['id']}/result")).content for job in jobs}
    assert download.suggested_filename == f"{photos[0].stem}-coloured.png"
    assert (await download.path()).read_bytes() in results

    await page.reload()
    await expect(page.locator(".link")).to_have_text("Live")
    await expect(page.get_by_role("listitem")).to_have_count(3)
    for photo in photos:
        await expect_state(page, photo.name, "done")
    await card(page, name).get_by_role("button", name="Delete:").click()
    await expect(page.get_by_role("listitem")).to_have_count(2)
    await expect(page.locator("li.card:focus")).to_have_count(1)  # the one beside it
    assert len((await place.owner.ask("GET", "/v1/jobs")).json()["items"]) == 2


async def test_a_wrong_key_and_a_wrong_file_say_what_is_wrong(
    visit: Visit, place: Place, tmp_path: pathlib.Path
) -> None:
    page = visit.page
    visit.expected = {401, 422}
    await begin(page, "hs_wrong")
    await expect(page.get_by_role("alert")).to_contain_text("the API key is not known or was revoked")
    assert await page.evaluate("sessionStorage.length") == 0
    await enter(page, place.key)
    notes = tmp_path / "notes.jpg"
    notes.write_text("no photo at all")
    await page.locator("#files").set_input_files([notes])
    await expect_state(page, "notes.jpg", "refused")
    await expect(card(page, "notes.jpg")).to_contain_text("This file is no photo that workers read")
    await expect(card(page, "notes.jpg").get_by_role("button", name="Try again:")).to_be_hidden()
    await card(page, "notes.jpg").get_by_role("button", name="Delete:").click()
    await expect(page.get_by_role("listitem")).to_have_count(0)
    await page.get_by_label("Size").fill("9000")
    await drop(page, "#drop", place.photos[0])
    await expect(page.get_by_role("alert")).to_have_text("Size: use 128 to 512 pixels.")
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("heading", name="Log in")).to_be_focused()
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_job_is_cancelled_and_one_that_died_says_why(
    visit: Visit, place: Place, tmp_path: pathlib.Path
) -> None:
    page, photo = visit.page, place.photos[0]
    large = tmp_path / "large.png"
    Image.new("L", (400, 300), 128).save(large)  # more pixels than this worker takes
    await enter(page, place.key)
    await drop(page, "#drop", large, media_type="image/png")
    await expect_state(page, large.name, "dead")
    await expect(card(page, large.name).locator(".words")).to_contain_text("pixels")
    await card(page, large.name).get_by_role("button", name="Delete:").click()
    await expect(page.get_by_role("listitem")).to_have_count(0)

    os.kill(worker_of(place), signal.SIGSTOP)
    try:
        await drop(page, "#drop", photo)
        await expect(card(page, photo.name)).to_have_attribute("data-state", re.compile("waiting|running"))
        await card(page, photo.name).get_by_role("button", name="Cancel:").click()
        await expect_state(page, photo.name, "cancelled")
        await expect(card(page, photo.name)).to_be_focused()  # the button that was pressed is gone
    finally:
        os.kill(worker_of(place), signal.SIGCONT)
    (job,) = (await place.owner.ask("GET", "/v1/jobs")).json()["items"]
    assert job["state"] == "cancelled"
    is_done = asyncio.Event()

    async def answer_late(route: Route) -> None:
        answer = await route.fetch()
        await is_done.wait()
        await route.fulfill(response=answer)

    await page.route(re.compile("/retry$"), answer_late)
    await card(page, photo.name).get_by_role("button", name="Try again:").click()
    await expect_state(page, photo.name, "done")
    async with page.expect_event("requestfinished", lambda request: request.url.endswith("/retry")):
        is_done.set()
    await page.evaluate("fetch('/v1/session').then((answer) => answer.json())")
    await expect_state(page, photo.name, "done")  # the answer says that it waits, which was so when it was asked for


async def test_an_upload_whose_answer_was_lost_is_sent_again_and_is_one_job(visit: Visit, place: Place) -> None:
    page, photo = visit.page, place.photos[0]
    keys: list[str] = []

    async def lose_the_first_answer(route: Route) -> None:
        if route.request.method != "POST":
            await route.continue_()
            return
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 1:
            await route.continue_()
            return
        assert (await route.fetch()).status == 202
        await route.abort()

    visit.complaints.clear()
    await enter(page, place.key)
    await page.route(re.compile(r"/v1/jobs\?workflow"), lose_the_first_answer)
    await drop(page, "#drop", photo)
    await expect_state(page, photo.name, "done")
    await expect(page.get_by_role("listitem")).to_have_count(1)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert len((await place.owner.ask("GET", "/v1/jobs")).json()["items"]) == 1
    visit.complaints = [line for line in visit.complaints if "ERR_FAILED" not in line]


async def test_what_was_not_sent_when_the_page_is_loaded_again_is_sent_then(visit: Visit, place: Place) -> None:
    page, photos = visit.page, place.photos[:6]
    asked: list[str] = []
    await enter(page, place.key)

    is_held = True
    sent: list[str] = []

    async def hold(route: Route) -> None:
        (asked if is_held else sent).append(route.request.headers["idempotency-key"])
        if not is_held:
            await route.continue_()

    await page.route(re.compile(r"/v1/jobs\?workflow"), hold)
    await drop(page, "#drop", *photos)
    await expect(page.locator("[data-state='sending'] .where", has_text="%")).to_have_count(4)
    await expect(page.locator(".badge", has_text="To be sent")).to_have_count(2)
    assert len(asked) == 4
    await page.wait_for_function(KEPT, arg=6)
    is_held = False
    await page.reload()
    for photo in photos:
        await expect_state(page, photo.name, "done")
    assert len(sent) == len(set(sent)) == 6
    assert set(asked) < set(sent)
    assert len((await place.owner.ask("GET", "/v1/jobs")).json()["items"]) == 6
    visit.complaints = [line for line in visit.complaints if "ERR_" not in line]


async def test_uploads_go_on_while_another_page_is_open_and_end_with_the_session(visit: Visit, place: Place) -> None:
    page, photos = visit.page, place.photos[:3]
    held: list[Route] = []

    async def hold(route: Route) -> None:
        held.append(route)

    await enter(page, place.key)
    await page.route(re.compile(r"/v1/jobs\?workflow"), hold)
    await drop(page, "#drop", *photos[:2])
    await expect(page.locator("[data-state='sending'] .where")).to_have_count(2)
    await page.get_by_role("link", name="Services").click()
    await expect(page.get_by_role("heading", name="Services")).to_be_visible()
    for route in held:
        async with page.expect_response(route.request.url):
            await route.continue_()
    await page.get_by_role("link", name="Jobs").click()
    await expect(page.get_by_role("heading", name="Colour your photos")).to_be_focused()
    for photo in photos[:2]:
        await expect_state(page, photo.name, "done")

    await drop(page, "#drop", photos[2])
    await expect_state(page, photos[2].name, "sending")
    await page.wait_for_function(KEPT, arg=1)
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_label("API key")).to_be_visible()
    await page.wait_for_function(KEPT, arg=0)
    await enter(page, place.key)
    await expect(page.get_by_role("listitem")).to_have_count(2)
    assert len(held) == 3
    visit.expected = {401}
    await page.evaluate(END_ELSEWHERE)
    await expect(page.get_by_label("API key")).to_be_visible()
    assert len((await place.owner.ask("GET", "/v1/jobs")).json()["items"]) == 2
    visit.complaints = [line for line in visit.complaints if "ERR_" not in line]


async def test_photos_that_one_person_left_are_not_sent_as_anothers(visit: Visit, place: Place) -> None:
    page, (photo, theirs) = visit.page, place.photos[:2]
    visit.expected = {401}
    body = {"name": "another", "grants": [{"role": "operator", "service": "*"}]}
    another = (await place.owner.ask("POST", "/v1/keys", json=body)).json()["key"]
    await enter(page, place.key)
    posts = re.compile(r"/v1/jobs\?workflow")
    await page.route(posts, lambda _: None)  # never answered
    await drop(page, "#drop", photo)
    await page.wait_for_function(KEPT, arg=1)
    await page.evaluate(END_ELSEWHERE)
    await page.reload()
    await page.unroute(posts)
    await enter(page, another)
    await drop(page, "#drop", theirs)
    await expect_state(page, theirs.name, "done")
    await expect(page.get_by_role("listitem")).to_have_count(1)
    await page.evaluate(END_ELSEWHERE)
    await page.reload()
    await enter(page, place.key)
    await expect_state(page, photo.name, "done")
    await expect(page.get_by_role("listitem")).to_have_count(1)
    visit.complaints = [line for line in visit.complaints if "ERR_" not in line]


async def test_a_tab_in_the_background_lets_go_of_its_stream_and_misses_nothing(visit: Visit, place: Place) -> None:
    page = visit.page
    await page.clock.install()
    await enter(page, place.key)
    await page.evaluate(HIDE, True)
    await page.clock.fast_forward("01:01")
    await expect(page.locator(".link")).to_contain_text("Connection lost")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    job = await place.submit(0)
    await page.clock.fast_forward("00:40")  # longer than any pause between two tries
    await page.evaluate("fetch('/ui/about.json').then((answer) => answer.status)")
    assert [url for url in asked if url.endswith("/events")] == []
    await page.evaluate(HIDE, False)
    await expect(page.locator(".link")).to_have_text("Live")
    await expect(page.locator(f"[data-id='{job}']")).to_have_attribute("data-state", "done")


async def test_the_page_comes_back_with_the_control_plane_and_knows_what_happened(visit: Visit, place: Place) -> None:
    page = visit.page
    await enter(page, place.key)
    first = await place.submit(0)
    await expect(page.get_by_role("listitem")).to_have_count(1)
    await place.stack.kill_control_plane()
    await expect(page.locator(".link")).to_contain_text("Connection lost")
    await place.stack.start_control_plane()
    second = await place.submit(1)
    await expect(page.locator(".link")).to_have_text("Live")
    for job in (first, second):
        await expect(page.locator(f"[data-id='{job}']")).to_have_attribute("data-state", "done")
    await place.owner.ask("DELETE", f"/v1/jobs/{first}")
    visit.complaints = [line for line in visit.complaints if "ERR_" not in line]


async def test_earlier_jobs_are_listed_page_by_page(visit: Visit, place: Place) -> None:
    page = visit.page
    visit.expected = {404}
    os.kill(worker_of(place), signal.SIGSTOP)
    try:
        jobs = [await place.submit(0) for _ in range(32)]
        await page.route(re.compile("/v1/jobs/events"), lambda route: route.abort())  # it would tell of all of them
        await begin(page, place.key)
        await expect(page.get_by_role("listitem")).to_have_count(30)
        await expect(page.locator(".link")).to_contain_text("Connection lost")
        await place.owner.ask("DELETE", f"/v1/jobs/{jobs[2]}")  # the last one listed
        await page.get_by_role("button", name="Show earlier ones").click()
        await expect(page.get_by_role("listitem")).to_have_count(31)
        await expect(page.get_by_role("button", name="Show earlier ones")).to_be_hidden()
        listed = await page.get_by_role("listitem").evaluate_all("(cards) => cards.map((card) => card.dataset.id)")
        assert listed == [job for job in reversed(jobs) if job != jobs[2]]
    finally:
        os.kill(worker_of(place), signal.SIGCONT)
    visit.complaints = [line for line in visit.complaints if "ERR_" not in line]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 380])
async def test_nobody_is_shut_out(browser: Browser, place: Place, scheme: str, width: int) -> None:
    """Labels, roles, contrast: axe has nothing to say, and nothing is wider than the window."""
    await place.submit(0)
    async with visiting(browser, place.url, width=width) as visit:
        page = visit.page
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type] # one of two
        assert await barriers(page) == []
        await enter(page, place.key)
        await expect(page.locator("[data-state='done']").first).to_be_visible()
        assert await barriers(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_role("button", name="Compare:").first.click()
        await expect(page.locator(".stage")).not_to_have_class(re.compile("loading"))
        assert await barriers(page) == []
        await visit.check_nothing_complained()
