"""Runs what `wiring` built: the one top-level TaskGroup, signals, the API's socket, the process's own limits.

If one part ends, all end, and the process with them; Envoys keep serving what they have and come back to the next one.
"""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import structlog
import uvicorn
from fastapi import FastAPI

from controlplane.errors import ControlPlaneError
from controlplane.ports import ConfigCompiler
from controlplane.settings import Role, Settings
from controlplane.wiring import Parts, build
from controlplane.xds.transport import bind_port

log = structlog.get_logger()

GC_THRESHOLDS = (50_000, 20, 100)
"""Allocations that outnumber what was freed, before the youngest objects are looked through; then how often, before
the older ones are. A cycle of 50,000 small objects is some megabytes."""


async def run(parts: Parts, *, api_socket: socket.socket | None, drain_s: float = 5.0) -> None:
    """Run all loops until cancelled; if one part fails, all stop.

    What was served before is served again before the first Envoy is let in.

    Raises:
        UnavailableError: A port is taken.
    """
    if parts.serves_xds:
        await parts.store.forget_replica(parts.replica, now=parts.controller.clock.now())
        await parts.projector.restore()
        await parts.xds.server.start()
        await parts.xds.rpc_server.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(parts.store.run_listener(), name="listener")
        if parts.xds.certificates is not None:
            tasks.create_task(parts.xds.certificates.run(), name="certificates")
        if parts.serves_xds:
            tasks.create_task(parts.projector.run(), name="projector")
            tasks.create_task(parts.xds.fleet.run(), name="fleet")
            tasks.create_task(parts.xds.server.run(), name="xds")
            tasks.create_task(parts.xds.polls.run(), name="polls")
            tasks.create_task(parts.xds.ingest.run(), name="ingest")
            tasks.create_task(parts.xds.rpc_server.run(), name="rpc")
            if parts.xds.channel_tls is not None:
                tasks.create_task(parts.xds.channel_tls.run(), name="tls")
        if parts.moves_rollouts:
            tasks.create_task(parts.controller.run(), name="controller")
            tasks.create_task(parts.sampler.run(), name="sampler")
            tasks.create_task(parts.examiner.run(), name="examiner")
            tasks.create_task(parts.provenance.run(), name="provenance")
            tasks.create_task(parts.resolver.run(), name="resolver")
            tasks.create_task(parts.janitor.run(), name="janitor")
            tasks.create_task(parts.jobs.run(), name="jobs")
        if parts.role in {Role.ALL, Role.API}:
            tasks.create_task(parts.jobs.overseer.meter.run(), name="job-meter")
        if parts.serves_api and api_socket is not None:
            tasks.create_task(parts.jobs.feed.run(), name="job-feed")
            tasks.create_task(parts.events.run(), name="event-feed")
            tasks.create_task(serve_api(parts.api, api_socket, drain_s), name="api")


def tune_collector() -> None:
    """Have Python look for garbage in cycles less often: a fleet's streams are many objects that live long.

    With the defaults, a change that a thousand Envoys follow costs the process a third of its time in looking through
    them. What is loaded by now is never looked through again; call this once all is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def raise_file_limit() -> None:
    """Let this process have as many connections as it may ever have: each Envoy is one or two open files.

    The usual limit, 1,024, is there for programs that still use `select`; to go on to the hard one is what it is for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # some systems have a lower ceiling than they say
        log.warning("process.file_limit", files=soft, words="raise it with ulimit -n: each Envoy needs two")


async def serve(settings: Settings, *, compiler: ConfigCompiler | None = None) -> None:
    """Run the control plane until SIGTERM or SIGINT; *compiler* as in `build`.

    Raises:
        ControlPlaneError: It cannot start; the text names the setting.
    """
    configure_logging(settings)
    async with contextlib.AsyncExitStack() as running:
        api_socket = None
        if settings.serves_http:
            api_socket = running.enter_context(bind_port(settings.bind, settings.api_port, "HUESHIFT_API_PORT"))
        parts = await running.enter_async_context(build(settings, compiler=compiler))
        tune_collector()
        raise_file_limit()
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(
                    run(parts, api_socket=api_socket, drain_s=settings.drain.total_seconds()), name="serve"
                )
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        except BaseExceptionGroup as failures:
            refused = failures.subgroup(ControlPlaneError)
            if refused is None:
                raise
            raise _first(refused) from failures
        log.info("process.stopped")


def configure_logging(settings: Settings) -> None:
    """Send every log line, ours and libraries', to standard error in one form."""
    shared: Sequence[structlog.typing.Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    render: Sequence[structlog.typing.Processor] = (
        (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
        if settings.log_json
        # Plain, because the other formatters print local variables, and some of those hold private keys.
        else (
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        )
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=max(level, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )


def _first(failures: BaseExceptionGroup[ControlPlaneError]) -> ControlPlaneError:
    inner = failures.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


class _ApiServer(uvicorn.Server):
    """Uvicorn without its own signal handlers: signals are `serve`'s."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_api(app: FastAPI, api_socket: socket.socket, drain_s: float) -> None:
    """Serve *app* on *api_socket* until cancelled; then requests get *drain_s* seconds to end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,  # who asks is who connects: Envoy names somebody else in x-forwarded-for when it polls
        timeout_graceful_shutdown=max(1, int(drain_s)),
    )
    server = _ApiServer(config)
    host, port = api_socket.getsockname()[:2]
    log.info("api.started", host=host, port=port)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[api_socket]), name="uvicorn")
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving  # requests in flight end; whoever listens for longer than the drain is cut
            raise
