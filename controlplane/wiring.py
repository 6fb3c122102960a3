"""Builds every object and owns the one top-level TaskGroup: the only module that knows the concrete classes.

If one part ends, all end, and the process with them; Envoys keep serving what they have and come back to the next one.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from controlplane.api.access import Certificates
from controlplane.api.app import create_app, create_discovery_app
from controlplane.api.discovery import Discovery
from controlplane.auth.keys import KeyRing
from controlplane.clock import SystemClock
from controlplane.controller.examiner import Examiner
from controlplane.controller.inspection import Inspector
from controlplane.controller.janitor import Janitor
from controlplane.controller.loop import Controller
from controlplane.controller.preview import Preview
from controlplane.controller.projector import Projector
from controlplane.controller.provenance import ProvenanceWatch
from controlplane.controller.sampler import Sampler
from controlplane.discovery.dns import Resolver
from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.job_parts import JobParts, open_jobs
from controlplane.ports import ConfigCheck, ConfigCompiler, PictureGate, Store
from controlplane.prometheus.client import Prometheus
from controlplane.prometheus.metrics import QueryMetrics
from controlplane.provenance.client import HttpModels
from controlplane.rpc.server import RpcServer
from controlplane.settings import RestDiscovery, Role, Settings, ValidateWithEnvoy, XdsTransport
from controlplane.store import SqlStore, open_store
from controlplane.store.schema import upgrade
from controlplane.telemetry.ingest import TelemetryIngest
from controlplane.telemetry.metrics import TelemetryMetrics
from controlplane.telemetry.service import SERVICE as METRICS_SERVICE
from controlplane.telemetry.service import MetricsService, describe_service
from controlplane.tls.channel import ChannelTls
from controlplane.tls.metrics import TlsMetrics
from controlplane.ui.app import add_pages
from controlplane.wake import Topic, Wake, WakeBoard
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.csds import SERVICE as CSDS
from controlplane.xds.csds import StatusService
from controlplane.xds.envoy_process import find_envoy
from controlplane.xds.envoy_validate import EnvoyValidator
from controlplane.xds.fleet import AckHook, Fleet
from controlplane.xds.grpc_transport import GrpcTransport
from controlplane.xds.lean.transport import LeanTransport
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.reading import SnapshotReader
from controlplane.xds.rest import RestPolls
from controlplane.xds.secrets import CertificateFolder
from controlplane.xds.server import XdsServer
from controlplane.xds.snapshot import SnapshotCompiler
from controlplane.xds.streams import ADS
from controlplane.xds.transport import bind_port

log = structlog.get_logger()

GC_THRESHOLDS = (50_000, 20, 100)
"""Allocations that outnumber what was freed, before the youngest objects are looked through; then how often, before
the older ones are. A cycle of 50,000 small objects is some megabytes."""

SERVING_XDS: Final = frozenset({Role.ALL, Role.XDS})

TRANSPORTS: Final[Mapping[XdsTransport, type[LeanTransport | GrpcTransport]]] = {
    XdsTransport.LEAN: LeanTransport,
    XdsTransport.GRPC: GrpcTransport,
}


@dataclasses.dataclass(slots=True, kw_only=True)
class Parts:
    """Every object of one process; a role leaves some of them idle."""

    role: Role
    store: SqlStore
    controller: Controller
    sampler: Sampler
    examiner: Examiner
    prometheus: Prometheus | None
    models: HttpModels
    provenance: ProvenanceWatch
    projector: Projector
    resolver: Resolver
    janitor: Janitor
    jobs: JobParts
    fleet: Fleet
    xds_server: XdsServer
    polls: RestPolls
    ingest: TelemetryIngest
    rpc_server: RpcServer
    channel_tls: ChannelTls | None
    certificates: CertificateFolder | None
    api: FastAPI
    http: bool
    replica: str

    @property
    def serves_xds(self) -> bool:
        """Whether Envoys connect to this process."""
        return self.role in SERVING_XDS

    @property
    def serves_api(self) -> bool:
        """Whether people and programs connect to this process, or Envoys that poll."""
        return self.http

    @property
    def moves_rollouts(self) -> bool:
        """Whether this process asks for the controller's lease."""
        return self.role in {Role.ALL, Role.CONTROLLER}


@contextlib.asynccontextmanager
async def build(settings: Settings, *, on_ack: AckHook | None = None, compiler: ConfigCompiler | None = None) -> Any:
    """Open the database and build a process's `Parts`; close the database at the end.

    Args:
        settings: What the environment says.
        on_ack: Hears of every ACK.
        compiler: Makes Envoy's configuration; by default `SnapshotCompiler`.

    Raises:
        ControlPlaneError: The database cannot be used, or the key file cannot be written.
    """
    clock, board = SystemClock(), WakeBoard()
    if not settings.database_url:
        # The embedded database is ours alone: nobody else would bring its schema up to date.
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        await upgrade(settings.sql_url)
    store = await open_store(settings.sql_url, board=board, clock=clock)
    try:
        keys = KeyRing(store=store, clock=clock)
        if await keys.ensure_admin_key(settings.admin_key_file):
            log.info("key.created", file=str(settings.admin_key_file))
        async with open_jobs(settings, store=store, clock=clock, board=board) as jobs:
            parts = _assemble(settings, store, keys, clock, board, on_ack, compiler or SnapshotCompiler(), jobs)
            async with parts.prometheus or contextlib.nullcontext(), parts.models:
                yield parts
    finally:
        await store.close()


def _assemble(
    settings: Settings,
    store: SqlStore,
    keys: KeyRing,
    clock: SystemClock,
    board: WakeBoard,
    on_ack: AckHook | None,
    compiler: ConfigCompiler,
    jobs: JobParts,
) -> Parts:
    registry = CollectorRegistry()
    xds_metrics = XdsMetrics(registry)
    cache = SnapshotCache(clock=clock, identifier=settings.replica)
    fleet = Fleet(store=store, clock=clock, replica=settings.replica, metrics=xds_metrics, on_ack=on_ack)
    tls_metrics = TlsMetrics(registry)
    channel_tls = _channel_tls(settings, clock, tls_metrics)
    certificates = None
    if settings.certificates_dir is not None:
        certificates = CertificateFolder(
            settings.certificates_dir, offer=cache.serve_secrets, clock=clock, metrics=tls_metrics
        )
        certificates.load()
    check = _config_check(settings)
    ingest = TelemetryIngest(
        store=store, clock=clock, board=board, connected=fleet.connected_ids, metrics=TelemetryMetrics(registry)
    )
    inspector = Inspector(store=store, reader=SnapshotReader(), clock=clock)
    xds_server = XdsServer(
        cache=cache,
        fleet=fleet,
        clock=clock,
        metrics=xds_metrics,
        transport=TRANSPORTS[settings.xds_transport](
            host=settings.bind, port=settings.xds_port, setting="HUESHIFT_XDS_PORT", tls=channel_tls
        ),
    )
    polls = RestPolls(cache=cache, clients=xds_server.streams.clients, fleet=fleet, clock=clock, metrics=xds_metrics)
    discovery = None
    if _answers_polls(settings):
        discovery = Discovery(polls=polls, loopback_only=settings.rest_discovery is RestDiscovery.LOOPBACK)
    controller = Controller(
        store=store,
        compiler=compiler,
        clock=clock,
        wake=_listening(board, Topic.DESIRED, Topic.COMMANDS, Topic.FLEET, Topic.TELEMETRY),
        interval=settings.interval,
        holder=settings.replica,
    )
    prometheus = _prometheus(settings, registry)
    gate = _picture_gate(settings, clock, registry)
    models = HttpModels()
    return Parts(
        role=settings.role,
        store=store,
        replica=settings.replica,
        controller=controller,
        sampler=Sampler(
            store=store, source=prometheus, clock=clock, leads=lambda: controller.leads, interval=settings.interval
        ),
        examiner=Examiner(
            store=store, gate=gate, clock=clock, leads=lambda: controller.leads, interval=settings.interval
        ),
        prometheus=prometheus,
        models=models,
        provenance=ProvenanceWatch(
            store=store,
            source=models,
            clock=clock,
            wake=_listening(board, Topic.DESIRED),
            leads=lambda: controller.leads,
            interval=settings.interval,
        ),
        projector=Projector(
            store=store,
            compiler=compiler,
            publisher=cache,
            clock=clock,
            wake=_listening(board, Topic.DESIRED),
            interval=settings.interval,
            check=check,
        ),
        resolver=Resolver(
            store=store, clock=clock, wake=_listening(board, Topic.DESIRED), interval=settings.resolve_interval
        ),
        janitor=Janitor(store=store, clock=clock, retention=settings.telemetry_retention),
        jobs=jobs,
        fleet=fleet,
        xds_server=xds_server,
        polls=polls,
        ingest=ingest,
        rpc_server=RpcServer(
            services={
                METRICS_SERVICE: MetricsService(ingest, verified=channel_tls is not None).handlers,
                CSDS: StatusService(inspector).handlers,
            },
            conditions=dict.fromkeys(("", ADS), lambda: bool(cache.served_versions)),
            files=describe_service(),
            clock=clock,
            address=settings.bind,
            port=settings.telemetry_port,
            tls=channel_tls,
        ),
        channel_tls=channel_tls,
        certificates=certificates,
        http=_serves_http(settings),
        api=create_discovery_app(discovery=discovery, registry=registry, clock=clock)
        if discovery is not None and settings.role is Role.XDS
        else create_app(
            store=store,
            clock=clock,
            registry=registry,
            inspector=inspector,
            desk=jobs.desk,
            callbacks=jobs.callbacks,
            feed=jobs.feed,
            overseer=jobs.overseer,
            authenticate=keys.authenticate,
            missing=lambda: _missing(store, cache, settings),
            public_reads=settings.public_reads,
            certificates=_known_certificates(settings, certificates),
            preview=Preview(compiler=compiler, check=check),
            compares_pictures=gate is not None,
            discovery=discovery,
            pages=add_pages,
        ),
    )


def _known_certificates(settings: Settings, folder: CertificateFolder | None) -> Certificates | None:
    if folder is not None:
        return lambda: folder.names
    return frozenset if settings.role in SERVING_XDS else None  # an API alone does not know what the others have


def _prometheus(settings: Settings, registry: CollectorRegistry) -> Prometheus | None:
    """Return the Prometheus that objectives are asked of, where there is one.

    Raises:
        InvalidInputError: HUESHIFT_PROMETHEUS_URL is no address.
    """
    if not settings.prometheus_url:
        return None
    token = settings.prometheus_token.get_secret_value()
    return Prometheus(settings.prometheus_url, token=token, metrics=QueryMetrics(registry))


def _picture_gate(settings: Settings, clock: SystemClock, registry: CollectorRegistry) -> PictureGate | None:
    """Return what compares pictures; None where the extra `quality` is not installed."""
    try:
        from controlplane.quality.http_gate import HttpGate  # noqa: PLC0415 - it needs Pillow, which not all install
        from controlplane.quality.metrics import QualityMetrics  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        if exc.name != "PIL":
            raise
        return None
    return HttpGate(clock=clock, metrics=QualityMetrics(registry), sample_token_file=settings.sample_token_file)


def _serves_http(settings: Settings) -> bool:
    return settings.role in {Role.ALL, Role.API} or _answers_polls(settings)


def _answers_polls(settings: Settings) -> bool:
    return settings.role in SERVING_XDS and settings.rest_discovery is not RestDiscovery.OFF


def _channel_tls(settings: Settings, clock: SystemClock, metrics: TlsMetrics) -> ChannelTls | None:
    if settings.role not in SERVING_XDS:
        return None
    files = settings.channel_files
    return None if files is None else ChannelTls(files, clock=clock, metrics=metrics)


async def run(parts: Parts, *, api_socket: socket.socket | None, drain_s: float = 5.0) -> None:
    """Run all loops until cancelled; if one part fails, all stop.

    What was served before is served again before the first Envoy is let in.

    Raises:
        UnavailableError: A port is taken.
    """
    if parts.serves_xds:
        await parts.store.forget_replica(parts.replica, now=parts.controller.clock.now())
        await parts.projector.restore()
        await parts.xds_server.start()
        await parts.rpc_server.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(parts.store.run_listener(), name="listener")
        if parts.certificates is not None:
            tasks.create_task(parts.certificates.run(), name="certificates")
        if parts.serves_xds:
            tasks.create_task(parts.projector.run(), name="projector")
            tasks.create_task(parts.fleet.run(), name="fleet")
            tasks.create_task(parts.xds_server.run(), name="xds")
            tasks.create_task(parts.polls.run(), name="polls")
            tasks.create_task(parts.ingest.run(), name="ingest")
            tasks.create_task(parts.rpc_server.run(), name="rpc")
            if parts.channel_tls is not None:
                tasks.create_task(parts.channel_tls.run(), name="tls")
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
            tasks.create_task(_serve_api(parts.api, api_socket, drain_s), name="api")


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
        if _serves_http(settings):
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


async def _serve_api(app: FastAPI, api_socket: socket.socket, drain_s: float) -> None:
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


async def _missing(store: Store, cache: SnapshotCache, settings: Settings) -> Sequence[str]:
    """Say what /readyz still waits for: a replica that has services to serve and serves none is not ready."""
    if settings.role is Role.API or cache.served_versions:
        return ()
    return ("no snapshot is served yet",) if await store.list_services() else ()


def _config_check(settings: Settings) -> ConfigCheck | None:
    """Return what shows configurations to an Envoy of this machine, if there is one and it is wanted.

    Raises:
        InvalidInputError: HUESHIFT_ENVOY does not name a program.
    """
    if settings.validate_with_envoy is ValidateWithEnvoy.OFF:
        return None
    try:
        binary = find_envoy(settings.envoy or None)
    except UnavailableError:
        log.info("config_check.absent", words="no Envoy on this machine; the fleet's own will judge configurations")
        return None
    return EnvoyValidator(binary)


def _listening(board: WakeBoard, *topics: Topic) -> Wake:
    wake = Wake()
    board.listen(wake, *topics)
    return wake
