"""What a page gets to hear that stays open beside a busy service, made up: a day of it in seconds."""

import datetime as dt
import json
import re
from typing import Any, Final

import httpx
from playwright.async_api import Page, Route

JUMP_S: Final = 900
EVENTS_A_JUMP: Final = 150


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
    """Answers in the control plane's stead for what grows with time: a point a second, and many events a jump."""

    def __init__(self) -> None:
        self.points = 0
        self.events = 0

    async def take_over(self, page: Page) -> None:
        """Answer what *page* asks for from now on."""
        await page.route(re.compile("/v1/services/colorize/series"), self._tell_series)
        await page.route(re.compile(r"/v1/events\?"), self._tell_events)

    async def pass_some(self, page: Page) -> None:
        """Let a quarter of an hour pass on the page's clock, until points and events of it have come."""
        points, events = self.points, self.events
        await page.clock.fast_forward(JUMP_S * 1000)
        while self.points == points or self.events == events:
            await page.clock.run_for(1_000)

    async def _tell_series(self, route: Route) -> None:
        query = httpx.URL(route.request.url).params
        since = int(dt.datetime.fromisoformat(query["since"]).timestamp())
        told = series_of(since, since + JUMP_S)
        self.points += JUMP_S
        await route.fulfill(json=told)

    async def _tell_events(self, route: Route) -> None:
        lines = []
        for _ in range(EVENTS_A_JUMP):
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
