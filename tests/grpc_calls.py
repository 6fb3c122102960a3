"""Proxyless gRPC with both ends real: workers that say their version's name, and a client in a process of its own.

gRPC reads its xDS bootstrap from the environment, once per process; so the client is a program: run as one, this
module calls a target at a steady rate and prints one JSON line a call.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from controlplane.clock import SystemClock
from controlplane.lab.server import ServerProcess

METHOD = "/echo.Echo/Say"
STREAM = "/echo.Echo/Tell"
RATE_PER_S = 250
TIMEOUT_S = 5.0


# -- workers -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def echo_server(version: str) -> Iterator[int]:
    """Serve an echo that answers with *version*, and health; yield its port.

    A call with the header ``x-status`` ends with the status of that name, a stream after its answer; ``hang`` waits
    until the caller has gone.
    """
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        _obey(context)
        return version.encode()

    def stream(_request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield version.encode()
        _obey(context)

    say: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    tell: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Say": say, "Tell": tell}),))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()


def _obey(context: grpc.ServicerContext) -> None:
    wanted = dict(context.invocation_metadata()).get("x-status")
    if wanted == "hang":
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait(TIMEOUT_S)
    elif wanted is not None:
        context.abort(grpc.StatusCode[str(wanted)], "as asked")


# -- the client --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call: when it began, who answered, and the error if nobody did."""

    at: dt.datetime
    by: str
    error: str


class Caller:
    """A gRPC client that dials ``xds:///`` and a name, and calls at a steady rate until it is stopped.

    Args:
        bootstrap: Says who it is and where its control plane is.
        target: What it dials after ``xds:///``.
        directory: For its bootstrap and its calls.
    """

    def __init__(self, bootstrap: Mapping[str, Any], target: str, *, directory: Path) -> None:
        node_id = bootstrap["node"]["id"]
        self._bootstrap = bootstrap
        self._bootstrap_file = directory / f"{node_id}.json"
        self._log = directory / f"{node_id}.log"
        self._process = ServerProcess(
            [sys.executable, "-m", "tests.grpc_calls", f"xds:///{target}"],
            log_file=self._log,
            environment={"GRPC_XDS_BOOTSTRAP": str(self._bootstrap_file)},
        )

    async def __aenter__(self) -> Self:
        self._bootstrap_file.write_text(json.dumps(self._bootstrap))
        await self._process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Have it finish its last call and leave."""
        await self._process.stop()

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._process.kill()

    def calls(self) -> list[Call]:
        """Return all calls so far."""
        text = self._log.read_text() if self._log.exists() else ""
        # gRPC's own words are in between; the last line may be half written.
        lines = [json.loads(line) for line in text.split("\n")[:-1] if line.startswith("{")]
        return [Call(dt.datetime.fromtimestamp(line["at"], dt.UTC), line["by"], line["error"]) for line in lines]


async def call_steadily(target: str) -> None:
    """Call *target*, one call after the other, until asked to stop."""
    clock = SystemClock()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with grpc.aio.insecure_channel(target) as channel:
        say: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        while not stop.is_set():
            line: dict[str, Any] = {"at": clock.now().timestamp(), "by": "", "error": ""}
            try:
                line["by"] = (await say(b"", timeout=TIMEOUT_S)).decode()
            except grpc.aio.AioRpcError as exc:
                line["error"] = f"{exc.code().name}: {exc.details()}"
            print(json.dumps(line), flush=True)  # noqa: T201 - its output is what the test reads
            await clock.sleep(dt.timedelta(seconds=1 / RATE_PER_S))


if __name__ == "__main__":
    asyncio.run(call_steadily(sys.argv[1]))
