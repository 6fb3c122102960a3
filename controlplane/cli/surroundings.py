"""What a command finds around it, in one value, so that tests can put something else there."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from controlplane.clock import SystemClock

if TYPE_CHECKING:
    import datetime as dt

    import httpx

    from controlplane.cli.client import Client


@dataclasses.dataclass(slots=True, kw_only=True)
class Surroundings:
    """The environment, the way to the API, and time. *url*, *color* come from the command line."""

    environment: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)
    transport: "httpx.BaseTransport | None" = None
    photo_transport: "httpx.AsyncBaseTransport | None" = None
    """Another way to the versions' workers than a socket."""
    sleep: Callable[[float], None] = time.sleep
    steady: Callable[[], float] = dataclasses.field(default_factory=lambda: SystemClock().steady)
    now: "Callable[[], dt.datetime]" = dataclasses.field(default_factory=lambda: SystemClock().now)
    execute: Callable[[str, list[str]], object] = os.execv
    url: str | None = None
    color: bool = True

    def client(self, *, quiet: bool = False, timeout_s: float | None = None) -> "Client":
        """Open a client of the API; unless *quiet*, it shows on a terminal that it waits for an answer.

        *timeout_s* is how long it waits, if not as long as it does by itself.

        Raises:
            InvalidInputError: The address or the key file is wrong.
        """
        # Here, not above: httpx and pydantic cost more to import than `hueshift --help` may take.
        from controlplane.cli.client import DEFAULT_URL, TIMEOUT_S, Client, check_url, find_key  # noqa: PLC0415
        from controlplane.cli.waiting import spinner  # noqa: PLC0415

        url = check_url(self.url or self.environment.get("HUESHIFT_URL") or DEFAULT_URL)
        waiting = functools.partial(spinner, f"waiting for {url}", color=self.color)
        return Client(
            url,
            find_key(self.environment, url),
            transport=self.transport,
            waiting=contextlib.nullcontext if quiet else waiting,
            timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
        )
