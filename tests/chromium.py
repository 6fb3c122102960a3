"""A real browser: Debian's Chromium, driven by Playwright, which looks for what a person would see or stumble over."""

import base64
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from tests.requirements import require

ARGUMENTS = [
    "--no-sandbox",  # root may not have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
DROP = """([target, files]) => {
  const transfer = new DataTransfer();
  for (const [name, type, content] of files) {
    const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.querySelector(target).dispatchEvent(new DragEvent(kind, options));
  }
}"""
VIOLATIONS = """window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));"""


def require_chromium() -> str:
    """Return the browser's path; skip the test in one line where there is none."""
    return require("chromium", "the Debian package chromium")


@contextlib.asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """Start the browser, and end it at the end."""
    path = require_chromium()
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclasses.dataclass
class Visit:
    """One page in a profile of its own, and what its console has complained of."""

    page: Page
    complaints: list[str]
    expected: set[int] = dataclasses.field(default_factory=set)
    """Statuses that the page was made to meet: the browser itself writes a line about each."""

    def hear(self, message: ConsoleMessage) -> None:
        """Keep what is wrong."""
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    async def check_nothing_complained(self) -> None:
        """Fail where the console has an error that is not `expected`, or the policy stopped something."""
        known = tuple(f"status of {status} " for status in self.expected)
        left = [line for line in self.complaints if not known or not any(words in line for words in known)]
        assert left == []
        assert await self.page.evaluate("window.violations") == []


@contextlib.asynccontextmanager
async def visiting(browser: Browser, url: str, *, width: int = 1280, height: int = 900) -> AsyncIterator[Visit]:
    """Open *url* in a new profile."""
    context = await browser.new_context(viewport={"width": width, "height": height}, locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    try:
        page = await context.new_page()
        visit = Visit(page, [])
        page.on("console", visit.hear)
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        await page.add_init_script(VIOLATIONS)
        await page.goto(url)
        yield visit
    finally:
        await context.close()


async def drop(page: Page, target: str, *files: pathlib.Path, media_type: str = "image/jpeg") -> None:
    """Do what a hand does that drops files on *target*."""
    given = [[file.name, media_type, base64.b64encode(file.read_bytes()).decode()] for file in files]
    await page.evaluate(DROP, [target, given])


async def barriers(page: Page) -> list[str]:
    """Return what axe finds that people with disabilities would stumble over, one line each."""
    found = await Axe().run(page)
    return [
        f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']]}"
        for one in found.response["violations"]
    ]
