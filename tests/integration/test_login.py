"""Log-ins and share links over sockets: a control plane as `serve` builds it, a provider, another site with links."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.async_api import expect

from controlplane import wiring
from controlplane.clock import SystemClock
from controlplane.running import serve_api
from controlplane.settings import read_settings
from controlplane.xds.transport import bind_port
from tests.builders import NOW, make_spec
from tests.chromium import barriers, require_chromium, running_chromium, visiting
from tests.oidc_provider import CLIENT, SECRET, Provider

WHO = "fetch('/v1/session').then((answer) => answer.json()).then((view) => view.name)"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where things are. What is at localhost is another site than what is at 127.0.0.1."""

    here: str
    provider: str
    elsewhere: str
    links: list[str]
    parts: wiring.Parts


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path) -> AsyncIterator[Place]:
    secret = folder / "secret"
    secret.write_text(SECRET)
    with contextlib.ExitStack() as bound:
        sockets = [bound.enter_context(bind_port("127.0.0.1", 0, "port")) for _ in range(3)]
        ports = [each.getsockname()[1] for each in sockets]
        here, there = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"
        settings = read_settings(
            data_dir=folder,
            role="api",
            public_url=here,
            oidc_issuer=there,
            oidc_client_id=CLIENT,
            oidc_client_secret_file=secret,
            oidc_roles="groups: ml=operator:colorize",
            validate_with_envoy="off",
        )
        links: list[str] = []
        async with wiring.build(settings) as parts, asyncio.TaskGroup() as tasks:
            apps = parts.api, Provider(there, SystemClock()).app, site_with(links)
            serving = [
                tasks.create_task(serve_api(app, listening, 1.0)) for app, listening in zip(apps, sockets, strict=True)
            ]
            yield Place(here, there, f"http://localhost:{ports[2]}", links, parts)
            for task in serving:
                task.cancel()


def site_with(links: list[str]) -> FastAPI:
    """Return somebody else's site with links to us."""
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse("".join(f"<p><a href='{each}'>{each}</a></p>" for each in links))

    return app


@pytest.mark.integration
async def test_somebody_logs_in_over_http_and_out_again(tmp_path: pathlib.Path) -> None:
    async with (
        running(tmp_path) as place,
        httpx.AsyncClient(base_url=place.here, trust_env=False, follow_redirects=True) as browser,
    ):
        page = await browser.get("/login/oidc")
        assert page.status_code == 200, page.text
        assert "You are logged in as user:ada@example.org." in page.text
        view = (await browser.get("/v1/session")).json()
        assert view["grants"] == [{"role": "operator", "service": "colorize"}]
        assert (await browser.delete("/v1/session")).status_code == 403
        csrf = {"X-Hueshift-CSRF": view["csrf"], "Origin": place.here}
        assert (await browser.delete("/v1/session", headers=csrf)).status_code == 204
        assert (await browser.get("/v1/session")).status_code == 401


@pytest.mark.integration
async def test_in_a_browser_another_sites_links_lead_into_a_session(tmp_path: pathlib.Path) -> None:
    """What only a browser knows: which cookies it sends after a link and redirects from elsewhere."""
    require_chromium()
    async with running(tmp_path) as place, running_chromium() as chromium:
        await place.parts.store.apply(make_spec(), by="ada", why="", now=NOW)
        shared = {"expires_in": "1h", "service": "colorize"}
        key = (tmp_path / "admin.key").read_text().strip()
        async with httpx.AsyncClient(base_url=place.here, trust_env=False) as http:
            made = await http.post("/v1/shares", json=shared, headers={"Authorization": f"Bearer {key}"})
        share = made.json()["url"]
        place.links.extend((f"{place.here}/login/oidc?back_to=/jobs", share))
        ada, guest = [await (await chromium.new_context()).new_page() for _ in range(2)]
        await ada.goto(place.elsewhere)
        await ada.click("a >> nth=0")
        await ada.wait_for_url(f"{place.here}/jobs")
        assert await ada.evaluate(WHO) == "user:ada@example.org"
        change = "fetch('/v1/session', {method: 'DELETE'}).then((answer) => answer.status)"
        assert await ada.evaluate(change) == 403
        for page in (ada, guest):
            await page.goto(place.elsewhere)
            await page.click("a >> nth=1")
            await page.wait_for_url(f"{place.here}/services/colorize")
            await page.goto(f"{place.here}/jobs")
        assert await ada.evaluate(WHO) == "user:ada@example.org", "who sees it anyway stays who they are"
        assert str(await guest.evaluate(WHO)).startswith("share:")


@pytest.mark.integration
async def test_the_log_in_page_leads_to_the_account_and_back_to_the_page_that_was_asked_for(
    tmp_path: pathlib.Path,
) -> None:
    require_chromium()
    async with running(tmp_path) as place, running_chromium() as chromium:
        await place.parts.store.apply(make_spec(), by="ada", why="", now=NOW)
        wanted = f"{place.here}/services/colorize"
        async with visiting(chromium, wanted) as visit:
            page = visit.page
            button = page.get_by_role("link", name="Log in with your account")
            await expect(button).to_be_visible()
            assert await barriers(page) == []
            await button.focus()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="colorize")).to_be_visible()
            assert page.url == wanted
            await expect(page.locator(".me")).to_contain_text("user:ada@example.org")
            await expect(page.locator(".me")).to_contain_text("operator on colorize")
            full = page.get_by_role("button", name="Promote fully")
            await expect(full).to_have_accessible_description(
                "Takes the role approver on colorize; you have only operator."
            )
            await page.get_by_role("button", name="Log out").click()
            await expect(button).to_be_visible()
            assert await page.evaluate("fetch('/ui/about.json').then((it) => it.json())") == {
                "oidc": True,
                "session": False,
            }
            await visit.check_nothing_complained()
