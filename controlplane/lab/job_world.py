"""All that jobs need, as real processes that a drill may kill one by one: the parts, and how each comes back.

The control plane (API and xDS), a dispatcher of its own beside it, RabbitMQ if it carries the queue, an Envoy, two
workers, and a place to fetch photos from that is never killed.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from controlplane.clock import Clock
from controlplane.lab.api_client import service_document
from controlplane.lab.ports import free_ports
from controlplane.lab.rabbitmq import RabbitServer, running_rabbitmq
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import Stack, bytecode, is_listening, program

Carrier: TypeAlias = Literal["rabbitmq", "sql"]

SERVICE: Final = "drill"
VERSION: Final = "v1"
OWNER: Final = "admin"
SLOTS: Final = 8
WORKERS: Final = 2
SETTLE: Final = dt.timedelta(milliseconds=50)


@dataclasses.dataclass(slots=True, kw_only=True)
class Part:
    """Something that is killed and comes back. Whoever does that to it holds its *lock*."""

    name: str
    kill: Callable[[], Awaitable[object]]
    start: Callable[[], Awaitable[object]]
    kills: int = 0
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)


class World:
    """The processes, started on entry and all ended on exit.

    Args:
        carrier: What carries the queue.
        directory: For everything that they write.
        seed: Which of the workers dies.
        slowest_ms: How long workers take for a picture at most.
        clock: For waiting.
    """

    def __init__(self, *, carrier: Carrier, directory: Path, seed: int, slowest_ms: int, clock: Clock) -> None:
        self.carrier = carrier
        self.directory = directory.absolute()
        self.queue_url = ""
        self.parts: tuple[Part, ...] = ()
        self._clock = clock
        self._rng = random.Random(seed)
        self._slowest_ms = slowest_ms
        self._listener, self.photos_port, *self._worker_ports = free_ports(2 + WORKERS)
        self._opened = contextlib.AsyncExitStack()
        self._workers = [self._worker(number, port) for number, port in enumerate(self._worker_ports)]
        self._photos = self._worker(WORKERS, self.photos_port)

    @property
    def answers(self) -> tuple[Path, ...]:
        """Where the workers note what they answered."""
        return tuple(self.directory / f"answers-{number}.log" for number in range(WORKERS))

    @property
    def blobs(self) -> Path:
        """The folder with photos and results."""
        return self.directory / "blobs"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._opened.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    def check_alive(self) -> None:
        """Raise if the control plane or the dispatcher has ended by itself.

        Raises:
            UnavailableError: One has; the text has its last words.
        """
        self.stack.control_plane.check_alive()
        self.dispatcher.check_alive()

    async def stop_control_planes(self) -> None:
        """End the dispatcher, then the control plane, as an operator would: what they hold is let go."""
        await self.dispatcher.stop(within=dt.timedelta(seconds=30))
        await self.stack.control_plane.stop(within=dt.timedelta(seconds=30))

    async def send_workers_away(self) -> None:
        """Kill every worker."""
        for worker in self._workers:
            await worker.kill()

    async def bring_workers_back(self) -> None:
        """Start every worker, and wait until they serve."""
        for worker, port in zip(self._workers, self._worker_ports, strict=True):
            await worker.start()
            await self._wait_port(port)

    async def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {"HUESHIFT_VALIDATE_WITH_ENVOY": "off", "HUESHIFT_LOG_LEVEL": "info"}
        rabbit = None
        if self.carrier == "rabbitmq":
            rabbit = await self._opened.enter_async_context(running_rabbitmq())
            self.queue_url = settings["HUESHIFT_QUEUE_URL"] = await rabbit.make_vhost()
            settings["HUESHIFT_TASKS_OWNER"] = OWNER
        settings["HUESHIFT_IMAGE_HOSTS"] = f"127.0.0.1:{self.photos_port}"
        settings["HUESHIFT_IMAGE_NETWORKS"] = "127.0.0.0/8"
        for worker in (*self._workers, self._photos):
            self._opened.push_async_callback(worker.stop)
            await worker.start()
        self.stack = await self._opened.enter_async_context(
            Stack(directory=self.directory, clock=self._clock, settings=settings)
        )
        self.dispatcher = ServerProcess(
            [program("hueshift"), "serve"],
            log_file=self.directory / "dispatcher.log",
            environment={
                **settings,
                **bytecode(self.directory),
                "HUESHIFT_DATA_DIR": str(self.directory),
                "HUESHIFT_ROLE": "controller",
                "HUESHIFT_REPLICA": "dispatcher",
                "HUESHIFT_JOBS_ENVOY": f"http://127.0.0.1:{self._listener}",
                "HUESHIFT_JOB_SLOTS": str(SLOTS),
            },
        )
        self._opened.push_async_callback(self.dispatcher.stop)
        await self.dispatcher.start()
        await self.stack.api.apply(self._document())
        await self.stack.wait_listener(self._listener)
        self.parts = self._list_parts(rabbit)

    def _list_parts(self, rabbit: RabbitServer | None) -> tuple[Part, ...]:
        envoy = self.stack.envoys[0]
        parts = [
            Part(name="control plane", kill=self.stack.kill_control_plane, start=self.stack.start_control_plane),
            Part(name="dispatcher", kill=self.dispatcher.kill, start=self.dispatcher.start),
            self._one_worker(),
            Part(name="Envoy", kill=envoy.server.kill, start=envoy.start),
        ]
        if rabbit is not None:
            parts.append(Part(name="RabbitMQ", kill=rabbit.kill, start=rabbit.restart))
        return tuple(parts)

    def _one_worker(self) -> Part:
        down: list[ServerProcess] = []

        async def kill() -> None:
            down.append(self._rng.choice(self._workers))
            await down[-1].kill()

        async def start() -> None:
            await down.pop().start()

        return Part(name="worker", kill=kill, start=start)

    def _worker(self, number: int, port: int) -> ServerProcess:
        log = self.directory / f"answers-{number}.log"
        flags = ["--port", str(port), "--version", VERSION, "--slowest-ms", str(self._slowest_ms), "--log", str(log)]
        return ServerProcess(
            [sys.executable, "-m", "controlplane.lab.job_worker", *flags],
            log_file=self.directory / f"worker-{number}.log",
        )

    def _document(self) -> dict[str, Any]:
        document = service_document(SERVICE, port=self._listener, endpoints={VERSION: self._worker_ports[0]})
        document["versions"][0]["endpoints"] = [f"127.0.0.1:{port}" for port in self._worker_ports]
        return document

    async def _wait_port(self, port: int) -> None:
        while not await is_listening(port):
            await self._clock.sleep(SETTLE)
