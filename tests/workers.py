"""Real worker processes, ready before a test goes on and ended after it."""

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from controlplane.clock import SystemClock
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import program


@contextlib.asynccontextmanager
async def running_worker(port: int, *flags: str, log_file: Path) -> AsyncIterator[ServerProcess]:
    """Run ``hueshift-worker serve`` with *flags* on *port* of loopback, ready when this yields."""
    worker = ServerProcess([program("hueshift-worker"), "serve", *flags, "--port", str(port)], log_file=log_file)

    async def ask() -> bool | None:
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success or None
        return None

    async with httpx.AsyncClient(trust_env=False) as client:
        await worker.start()
        try:
            await wait_for_answer(ask, what=f"worker {' '.join(flags)}", clock=SystemClock(), at_most=PATIENCE)
            yield worker
        finally:
            await worker.stop()


PATIENCE = dt.timedelta(minutes=2)
