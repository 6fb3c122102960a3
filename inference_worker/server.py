"""uvicorn with a way to stop that loses no accepted request.

On a signal the worker says at once that it is not ready, and marks every connection for closing. For the time it
lingers it goes on taking photos, so that Envoy's health checks can take it out of the rotation; then the listener
closes, what was read is answered, and the process ends with exit code 0.
"""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from inference_worker.service import Service

HURRY_S: Final = 2
"""How long answers may take to leave once there is nothing more to compute them with."""


def make_config(app: FastAPI, *, drain_s: int) -> uvicorn.Config:
    """What uvicorn is told; *drain_s* is how long running requests may take once the listener is closed."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=drain_s,
        timeout_keep_alive=75,
    )


class DrainingServer(uvicorn.Server):
    """Lingers, then drains; a second signal ends the lingering."""

    def __init__(self, config: uvicorn.Config, *, service: Service, linger_s: float) -> None:
        super().__init__(config)
        self._service = service
        self._linger_s = linger_s
        self._is_leaving = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.leave()
        if self._is_leaving or self._linger_s <= 0:
            self._close(sig, frame)
        else:
            asyncio.get_running_loop().call_later(self._linger_s, self._close, sig, frame)
        self._is_leaving = True

    def hurry(self) -> None:
        """Stop without lingering; who is still sending a photo is not waited for."""
        self.config.timeout_graceful_shutdown = min(HURRY_S, self.config.timeout_graceful_shutdown or HURRY_S)
        self.should_exit = True

    def _close(self, sig: int, frame: FrameType | None) -> None:
        self._service.stop()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        yield
