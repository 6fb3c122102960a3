"""Builds what Envoys talk to, for `wiring`: streams, polls, certificates, telemetry."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry

from controlplane.api.discovery import Discovery
from controlplane.clock import Clock
from controlplane.controller.inspection import Inspector
from controlplane.rpc.server import RpcServer
from controlplane.settings import RestDiscovery, Settings, XdsTransport
from controlplane.store import SqlStore
from controlplane.telemetry.ingest import TelemetryIngest
from controlplane.telemetry.metrics import TelemetryMetrics
from controlplane.telemetry.service import SERVICE as METRICS_SERVICE
from controlplane.telemetry.service import MetricsService, describe_service
from controlplane.tls.channel import ChannelTls
from controlplane.tls.metrics import TlsMetrics
from controlplane.wake import WakeBoard
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.csds import SERVICE as CSDS
from controlplane.xds.csds import StatusService
from controlplane.xds.fleet import AckHook, Fleet
from controlplane.xds.grpc_transport import GrpcTransport
from controlplane.xds.lean.transport import LeanTransport
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.reading import SnapshotReader
from controlplane.xds.rest import RestPolls
from controlplane.xds.secrets import CertificateFolder
from controlplane.xds.server import XdsServer
from controlplane.xds.streams import ADS

TRANSPORTS: Final[Mapping[XdsTransport, type[LeanTransport | GrpcTransport]]] = {
    XdsTransport.LEAN: LeanTransport,
    XdsTransport.GRPC: GrpcTransport,
}


@dataclasses.dataclass(slots=True, kw_only=True)
class XdsParts:
    """Everything in one process that Envoys reach, or that knows them."""

    cache: SnapshotCache
    fleet: Fleet
    server: XdsServer
    polls: RestPolls
    discovery: Discovery | None
    ingest: TelemetryIngest
    rpc_server: RpcServer
    inspector: Inspector
    channel_tls: ChannelTls | None
    certificates: CertificateFolder | None


def build_xds(
    settings: Settings,
    *,
    store: SqlStore,
    clock: Clock,
    board: WakeBoard,
    registry: CollectorRegistry,
    on_ack: AckHook | None,
) -> XdsParts:
    """Build a process's `XdsParts`; *on_ack* hears of every ACK.

    Raises:
        InvalidInputError: A certificate or the port's TLS files cannot be used.
    """
    metrics, tls_metrics = XdsMetrics(registry), TlsMetrics(registry)
    cache = SnapshotCache(clock=clock, identifier=settings.replica)
    fleet = Fleet(store=store, clock=clock, replica=settings.replica, metrics=metrics, on_ack=on_ack)
    channel_tls = _channel_tls(settings, clock, tls_metrics)
    server = XdsServer(
        cache=cache,
        fleet=fleet,
        clock=clock,
        metrics=metrics,
        transport=TRANSPORTS[settings.xds_transport](
            host=settings.bind, port=settings.xds_port, setting="HUESHIFT_XDS_PORT", tls=channel_tls
        ),
    )
    polls = RestPolls(cache=cache, clients=server.streams.clients, fleet=fleet, clock=clock, metrics=metrics)
    ingest = TelemetryIngest(
        store=store, clock=clock, board=board, connected=fleet.connected_ids, metrics=TelemetryMetrics(registry)
    )
    inspector = Inspector(store=store, reader=SnapshotReader(), clock=clock)
    return XdsParts(
        cache=cache,
        fleet=fleet,
        server=server,
        polls=polls,
        discovery=_discovery(settings, polls),
        ingest=ingest,
        inspector=inspector,
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
        certificates=_certificates(settings, cache, clock, tls_metrics),
    )


def _certificates(
    settings: Settings, cache: SnapshotCache, clock: Clock, metrics: TlsMetrics
) -> CertificateFolder | None:
    if settings.certificates_dir is None:
        return None
    folder = CertificateFolder(settings.certificates_dir, offer=cache.serve_secrets, clock=clock, metrics=metrics)
    folder.load()
    return folder


def _discovery(settings: Settings, polls: RestPolls) -> Discovery | None:
    if not settings.answers_polls:
        return None
    return Discovery(polls=polls, loopback_only=settings.rest_discovery is RestDiscovery.LOOPBACK)


def _channel_tls(settings: Settings, clock: Clock, metrics: TlsMetrics) -> ChannelTls | None:
    files = settings.channel_files if settings.serves_xds else None
    return None if files is None else ChannelTls(files, clock=clock, metrics=metrics)
