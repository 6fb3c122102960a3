"""A worker for drills with jobs: no model, an answer that can be checked byte by byte, and a process to be killed.

It also is where photos are fetched from (``GET /photos/NUMBER``). Each answer is a line in its log, ``JOB NONCE``,
written before the answer is sent: a result that no log names is nobody's.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import os
import random
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from controlplane.clock import Clock, SystemClock
from controlplane.lab.http1 import header
from controlplane.lab.job_pictures import NONCE_BYTES, coloured, is_bad, photo

PHOTOS: Final = "/photos/"
REFUSAL: Final = "the drill's bad photo"
MAX_HEAD: Final = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    job: str
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobWorker:
    """Answers one connection after the other as they come; *slowest* is the longest that an answer takes."""

    version: str
    slowest: dt.timedelta
    log: int
    clock: Clock

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection's requests until it is closed."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(await self._answer(await _read(reader)))
                await writer.drain()
        writer.close()

    async def _answer(self, request: _Request) -> bytes:
        if request.method == "GET":
            if not request.path.startswith(PHOTOS):
                return self._render(200, b"fine", "text/plain")
            number, _, ending = request.path.removeprefix(PHOTOS).partition(".")
            return self._render(200, photo(int(number), bad=ending == "bad"), "image/png")
        await self.clock.sleep(self.slowest * random.random())
        try:
            if is_bad(request.body):
                return self._render(422, b'{"error": "%s"}' % REFUSAL.encode(), "application/json")
        except ValueError as exc:
            return self._render(415, b'{"error": "%s"}' % str(exc).encode(), "application/json")
        nonce = secrets.token_bytes(NONCE_BYTES)
        # Before the answer, and past any buffer of ours: a kill right after it must not lose it.
        os.write(self.log, f"{request.job} {nonce.hex()}\n".encode())
        return self._render(200, coloured(request.body, nonce), "image/png")

    def _render(self, status: int, body: bytes, kind: str) -> bytes:
        head = (
            f"HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
            f"x-model-version: {self.version}\r\n\r\n"
        )
        return head.encode() + body


async def _read(reader: asyncio.StreamReader) -> _Request:
    head = await reader.readuntil(b"\r\n\r\n")
    length = header(head.lower(), b"content-length")
    body = await reader.readexactly(int(length)) if length else b""
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    job = header(head, b"x-job-id") or b""  # Envoy writes names in lower case
    return _Request(method, target.partition("?")[0], job.decode(), body)


async def run(*, port: int, version: str, slowest: dt.timedelta, log_file: Path) -> None:
    """Serve on a loopback *port* until the process is ended."""
    log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    worker = JobWorker(version=version, slowest=slowest, log=log, clock=SystemClock())
    server = await asyncio.start_server(worker.serve, "127.0.0.1", port, limit=MAX_HEAD, backlog=256)
    async with server:
        await server.serve_forever()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--version", default="v1", help="what it says it is")
    parser.add_argument("--slowest-ms", type=float, default=0.0, help="the longest that an answer takes")
    parser.add_argument("--log", type=Path, required=True, help="gets a line per answer")
    options = parser.parse_args(argv)
    slowest = dt.timedelta(milliseconds=options.slowest_ms)
    asyncio.run(run(port=options.port, version=options.version, slowest=slowest, log_file=options.log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
