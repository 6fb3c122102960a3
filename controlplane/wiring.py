"""Builds every object of a process: with `xds_parts` and `job_parts`, the only modules that know the concrete classes.

`running` runs what is built here.
"""

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Sequence

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from controlplane.api.access import Certificates
from controlplane.api.access import Parts as ApiParts
from controlplane.api.app import create_app, create_discovery_app
from controlplane.api.identity import SESSION_COOKIES
from controlplane.auth.keys import KeyRing
from controlplane.auth.parts import AuthParts
from controlplane.auth_parts import open_auth
from controlplane.clock import SystemClock
from controlplane.controller.examiner import Examiner
from controlplane.controller.gatekeeper import Gatekeeper
from controlplane.controller.janitor import Janitor
from controlplane.controller.loop import Controller
from controlplane.controller.preview import Preview
from controlplane.controller.projector import Projector
from controlplane.controller.provenance import ProvenanceWatch
from controlplane.controller.sampler import Sampler
from controlplane.controller.summing import Summing
from controlplane.discovery.dns import Resolver
from controlplane.errors import UnavailableError
from controlplane.events.feed import EventFeed
from controlplane.job_parts import JobParts, open_jobs
from controlplane.notify_parts import NotifyParts, open_notify
from controlplane.ports import ConfigCheck, ConfigCompiler, PictureGate, Store
from controlplane.prometheus.client import Prometheus
from controlplane.prometheus.metrics import QueryMetrics
from controlplane.provenance.client import HttpModels
from controlplane.settings import Role, Settings, ValidateWithEnvoy
from controlplane.store import SqlStore, open_store
from controlplane.store.schema import upgrade
from controlplane.ui.app import add_pages
from controlplane.wake import Topic, Wake, WakeBoard
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.envoy_process import find_envoy
from controlplane.xds.envoy_validate import EnvoyValidator
from controlplane.xds.fleet import AckHook
from controlplane.xds.secrets import CertificateFolder
from controlplane.xds.snapshot import SnapshotCompiler
from controlplane.xds_parts import XdsParts, build_xds

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every part of a process stands on."""

    settings: Settings
    store: SqlStore
    keys: KeyRing
    compiler: ConfigCompiler
    clock: SystemClock
    board: WakeBoard
    registry: CollectorRegistry

    def listening(self, *topics: Topic) -> Wake:
        """Return what *topics* wake."""
        wake = Wake()
        self.board.listen(wake, *topics)
        return wake


@dataclasses.dataclass(slots=True, kw_only=True)
class Parts:
    """Every object of one process; a role leaves some of them idle."""

    settings: Settings
    store: SqlStore
    controller: Controller
    sampler: Sampler
    examiner: Examiner
    gatekeeper: Gatekeeper
    prometheus: Prometheus | None
    models: HttpModels
    provenance: ProvenanceWatch
    projector: Projector
    resolver: Resolver
    janitor: Janitor
    summing: Summing
    jobs: JobParts
    notify: NotifyParts
    xds: XdsParts
    events: EventFeed
    api: FastAPI

    @property
    def role(self) -> Role:
        """What this process does."""
        return self.settings.role

    @property
    def replica(self) -> str:
        """Its name among those that share the database."""
        return self.settings.replica

    @property
    def serves_xds(self) -> bool:
        """Whether Envoys connect to this process."""
        return self.settings.serves_xds

    @property
    def serves_api(self) -> bool:
        """Whether people and programs connect to this process, or Envoys that poll."""
        return self.settings.serves_http

    @property
    def moves_rollouts(self) -> bool:
        """Whether this process asks for the controller's lease."""
        return self.role in {Role.ALL, Role.CONTROLLER}


@contextlib.asynccontextmanager
async def build(
    settings: Settings, *, on_ack: AckHook | None = None, compiler: ConfigCompiler | None = None
) -> AsyncIterator[Parts]:
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
        ground = Ground(
            settings=settings,
            store=store,
            keys=KeyRing(store=store, clock=clock),
            compiler=compiler or SnapshotCompiler(),
            clock=clock,
            board=board,
            registry=CollectorRegistry(),
        )
        if await ground.keys.ensure_admin_key(settings.admin_key_file):
            log.info("key.created", file=str(settings.admin_key_file))
        async with (
            open_jobs(settings, store=store, clock=clock, board=board) as jobs,
            open_auth(settings, store=store, keys=ground.keys, clock=clock) as auth,
            open_notify(settings, store=store, clock=clock, board=board, registry=ground.registry) as notify,
        ):
            parts = _assemble(ground, jobs, auth, notify, on_ack)
            async with parts.prometheus or contextlib.nullcontext(), parts.models:
                yield parts
    finally:
        await store.close()


def _assemble(ground: Ground, jobs: JobParts, auth: AuthParts, notify: NotifyParts, on_ack: AckHook | None) -> Parts:
    settings, store, clock = ground.settings, ground.store, ground.clock
    xds = build_xds(settings, store=store, clock=clock, board=ground.board, registry=ground.registry, on_ack=on_ack)
    check = _config_check(settings)
    controller = _controller(ground)
    prometheus = _prometheus(settings, ground.registry)
    gate = _picture_gate(settings, clock, ground.registry)
    models = HttpModels()
    events = _event_feed(ground)

    def leads() -> bool:
        return controller.leads

    return Parts(
        settings=settings,
        store=store,
        controller=controller,
        sampler=Sampler(store=store, source=prometheus, clock=clock, leads=leads, interval=settings.interval),
        examiner=Examiner(store=store, gate=gate, clock=clock, leads=leads, interval=settings.interval),
        gatekeeper=Gatekeeper(
            store=store,
            source=notify.gates,
            secrets=notify.gate_secrets,
            clock=clock,
            leads=leads,
            cluster=settings.cluster,
            interval=settings.interval,
        ),
        prometheus=prometheus,
        models=models,
        provenance=ProvenanceWatch(
            store=store,
            source=models,
            clock=clock,
            wake=ground.listening(Topic.DESIRED),
            leads=leads,
            interval=settings.interval,
        ),
        projector=_projector(ground, xds.cache, check),
        resolver=Resolver(
            store=store, clock=clock, wake=ground.listening(Topic.DESIRED), interval=settings.resolve_interval
        ),
        janitor=Janitor(store=store, clock=clock, retention=settings.telemetry_retention),
        summing=Summing(store=store, clock=clock, leads=leads),
        jobs=jobs,
        notify=notify,
        xds=xds,
        events=events,
        api=_api(ground, xds, jobs, auth, notify, events, check, compares_pictures=gate is not None),
    )


def _controller(ground: Ground) -> Controller:
    return Controller(
        store=ground.store,
        compiler=ground.compiler,
        clock=ground.clock,
        wake=ground.listening(Topic.DESIRED, Topic.COMMANDS, Topic.FLEET, Topic.TELEMETRY),
        interval=ground.settings.interval,
        holder=ground.settings.replica,
    )


def _projector(ground: Ground, cache: SnapshotCache, check: ConfigCheck | None) -> Projector:
    return Projector(
        store=ground.store,
        compiler=ground.compiler,
        publisher=cache,
        clock=ground.clock,
        wake=ground.listening(Topic.DESIRED),
        interval=ground.settings.interval,
        check=check,
    )


def _api(
    ground: Ground,
    xds: XdsParts,
    jobs: JobParts,
    auth: AuthParts,
    notify: NotifyParts,
    events: EventFeed,
    check: ConfigCheck | None,
    *,
    compares_pictures: bool,
) -> FastAPI:
    settings, store = ground.settings, ground.store
    if xds.discovery is not None and settings.role is Role.XDS:
        return create_discovery_app(discovery=xds.discovery, registry=ground.registry, clock=ground.clock)
    parts = ApiParts(
        store=store,
        clock=ground.clock,
        auth=auth,
        missing=lambda: _missing(store, xds.cache, settings),
        public_reads=settings.public_reads,
        inspector=xds.inspector,
        desk=jobs.desk,
        callbacks=jobs.callbacks,
        feed=jobs.feed,
        events=events,
        overseer=jobs.overseer,
        notify=notify.desk,
        certificates=_known_certificates(settings, xds.certificates),
        preview=Preview(compiler=ground.compiler, check=check),
        compares_pictures=compares_pictures,
    )
    pages = functools.partial(add_pages, oidc=parts.auth.logins is not None, cookies=SESSION_COOKIES)
    return create_app(parts, registry=ground.registry, discovery=xds.discovery, pages=pages)


def _event_feed(ground: Ground) -> EventFeed:
    return EventFeed(
        store=ground.store,
        clock=ground.clock,
        wake=ground.listening(Topic.DESIRED, Topic.COMMANDS, Topic.FLEET, Topic.TELEMETRY),
        standing_wake=ground.listening(Topic.DESIRED, Topic.FLEET),
        interval=ground.settings.interval,
    )


def _known_certificates(settings: Settings, folder: CertificateFolder | None) -> Certificates | None:
    if folder is not None:
        return lambda: folder.names
    return frozenset if settings.serves_xds else None  # an API alone does not know what the others have


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
