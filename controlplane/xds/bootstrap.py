"""What an Envoy is started with: where its control plane is, and everything that only a bootstrap can say.

Statistics (which, how often, into which buckets) cannot be changed over xDS; a change here means new Envoy processes.
"""

import dataclasses
import datetime as dt
import ipaddress
from typing import Any, Final, Literal, TypeAlias

from controlplane.errors import InvalidInputError
from controlplane.rollout.windows import LATENCY_EDGES_MS

Variant: TypeAlias = Literal["delta", "sotw", "delta-per-type", "sotw-per-type", "rest"]
"""How an Envoy asks for configuration: what changed or everything, on one stream (ADS) or on one per type and name, or
by polling."""

XDS_CLUSTER: Final = "xds"
"""The control plane, as every Envoy of ours calls it: resources for clients without ADS name it too."""

REFRESH: Final = dt.timedelta(seconds=1)
"""How long a polling Envoy waits before it asks again; it adds up to as much by chance."""

REST_TIMEOUT: Final = dt.timedelta(seconds=5)
"""How long it waits for an answer. Envoy's default of 1 s would take a busy moment of ours for a failure."""

TELEMETRY_CLUSTER: Final = "hueshift_telemetry"

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# Patterns name no cluster: those of later versions must be counted by the Envoys that run today.
CLUSTER_STATISTICS: Final = (
    r"cluster\.[^.]+\."
    r"(((internal|external|canary|retry)\.)?upstream_rq_(\d+|\dxx|completed|time|total|timeout|active|cancelled"
    r"|per_try_timeout|pending_active|pending_overflow|pending_failure_eject|maintenance_mode|rx_reset|tx_reset|retry|retry_success)"
    r"|membership_(change|degraded|excluded|healthy|total)"
    r"|upstream_cx_(active|total|connect_fail|connect_timeout|overflow|destroy_remote_with_active_rq|idle_timeout)"
    r"|health_check\.(attempt|success|failure|passive_failure|network_failure|healthy)"
    # A status is whatever an upstream sends as one, and Envoy would keep a counter for each.
    r"|grpc\.([1-9]|1[0-6])"
    r"|outlier_detection\.\w+|circuit_breakers\.default\.\w+|warming_state|update_(attempt|success|failure|rejected))"
)

SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - the name of a type
OWN_CERTIFICATE: Final = "hueshift_own_certificate"
CONTROL_PLANE_CA: Final = "hueshift_control_plane_ca"

OTHER_STATISTICS: Final = ("cluster_manager.", "listener_manager.", "http.", "server.", "control_plane.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTls:
    """How an Envoy proves who it is, and whom it believes to be the control plane. The paths are Envoy's.

    *server_name* is a DNS name or an IP address that the control plane's certificate must have. *secrets* is a folder
    with the files of `render_secrets`: then Envoy follows its PEM files without a restart. Without, it reads them once.
    """

    certificate: str
    key: str
    ca: str
    server_name: str
    secrets: str = ""


def render_secrets(tls: ChannelTls) -> dict[str, dict[str, Any]]:
    """Return what the files in the folder *tls.secrets* hold, by their names: where the PEM files are.

    Envoy looks again whenever a file is moved into the folder of a PEM file; writing over one is not noticed.
    """
    return {
        _secret_file(name): {"resources": [{"@type": SECRET_TYPE, "name": name, **secret}]}
        for name, secret in (
            (
                OWN_CERTIFICATE,
                {"tls_certificate": {**_own_certificate(tls), "watched_directory": {"path": _folder(tls.certificate)}}},
            ),
            (
                CONTROL_PLANE_CA,
                {"validation_context": {**_validation(tls), "watched_directory": {"path": _folder(tls.ca)}}},
            ),
        )
    }


def render_bootstrap(  # noqa: PLR0913 - each is one setting of an Envoy, and they are independent
    *,
    node_id: str,
    cluster: str = "hueshift",
    xds_address: str = "127.0.0.1",
    xds_port: int = 18000,
    telemetry_address: str | None = None,
    telemetry_port: int = 18001,
    admin_address: str = "127.0.0.1",
    admin_port: int = 9901,
    variant: Variant = "delta",
    flush: dt.timedelta = dt.timedelta(milliseconds=250),
    tls: ChannelTls | None = None,
) -> dict[str, Any]:
    """Return a bootstrap, ready to be printed as JSON or YAML.

    Args:
        node_id: Tells this Envoy from all others; two of the same name would be one row.
        cluster: The group it belongs to.
        xds_address: Host name or IP address of the control plane.
        xds_port: Its discovery services, or for *variant* rest the port of its API.
        telemetry_address: Where its metrics service is, if not at *xds_address*.
        telemetry_port: The port of that.
        admin_address: Where the admin interface binds. It can stop Envoy, so keep it on loopback.
        admin_port: Its port; 0 lets the kernel choose.
        variant: How Envoy asks for configuration.
        flush: How often it reports its statistics.
        tls: Mutual TLS towards the control plane; without it the channel is plaintext. Polls are always plaintext.
    """
    return {
        "node": {"id": node_id, "cluster": cluster},
        "admin": {"address": _socket(admin_address, admin_port)},
        "dynamic_resources": _dynamic_resources(variant),
        "static_resources": {
            "clusters": [
                _control_plane(XDS_CLUSTER, xds_address, xds_port, tls, http2=True)
                if variant != "rest"
                else _control_plane(XDS_CLUSTER, xds_address, xds_port, None, http2=False),
                _control_plane(TELEMETRY_CLUSTER, telemetry_address or xds_address, telemetry_port, tls, http2=True),
            ]
        },
        "stats_flush_interval": _seconds(flush),
        "stats_sinks": [
            {
                "name": "envoy.stat_sinks.metrics_service",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig",
                    "grpc_service": _grpc_service(TELEMETRY_CLUSTER),
                    "transport_api_version": "V3",
                    # Cumulative: differences that are reported while nobody listens would be lost.
                    "report_counters_as_deltas": False,
                    "emit_tags_as_labels": True,
                    "histogram_emit_mode": "HISTOGRAM",
                },
            }
        ],
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"safe_regex": {"regex": CLUSTER_STATISTICS}},
                        *({"prefix": prefix} for prefix in OTHER_STATISTICS),
                    ]
                }
            },
            "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": list(LATENCY_EDGES_MS)}],
        },
    }


def render_grpc_bootstrap(
    *,
    node_id: str,
    cluster: str = "hueshift",
    group: str = "",
    xds_address: str = "127.0.0.1",
    xds_port: int = 18000,
    tls: ChannelTls | None = None,
) -> dict[str, Any]:
    """Return what a gRPC client that dials ``xds:///NAME`` is started with: GRPC_XDS_BOOTSTRAP names a file of it.

    Args:
        node_id: Tells this client from all others, Envoys included; two of the same name would be one row.
        cluster: The group it belongs to, unless *group* names another.
        group: Goes into its metadata.
        xds_address: Host name or IP address of the control plane.
        xds_port: Its aggregated discovery service.
        tls: Its certificate, and whom it believes; it follows the files by itself.

    Raises:
        InvalidInputError: The control plane's certificate has another name than the one that is dialled.
    """
    if tls is not None and tls.server_name != xds_address:
        raise InvalidInputError(
            "--server-name", f"{tls.server_name!r} is not what the client dials, and gRPC checks that", "leave it out"
        )
    host = f"[{xds_address}]" if ":" in xds_address else xds_address
    server = {
        "server_uri": f"{host}:{xds_port}",
        "channel_creds": [{"type": "insecure"} if tls is None else {"type": "tls", "config": _grpc_files(tls)}],
        "server_features": ["xds_v3"],
    }
    node = {"id": node_id, "cluster": cluster, **({"metadata": {"hueshift_group": group}} if group else {})}
    return {"xds_servers": [server], "node": node}


def _grpc_files(tls: ChannelTls) -> dict[str, str]:
    return {"certificate_file": tls.certificate, "private_key_file": tls.key, "ca_certificate_file": tls.ca}


def config_source(variant: Variant) -> dict[str, Any]:
    """Return where a client of *variant* gets a type of resources from."""
    if variant in {"delta", "sotw"}:
        return {"ads": {}, "resource_api_version": "V3"}
    return {"api_config_source": _api_config_source(variant), "resource_api_version": "V3"}


def _dynamic_resources(variant: Variant) -> dict[str, Any]:
    found: dict[str, Any] = {"cds_config": config_source(variant), "lds_config": config_source(variant)}
    return {"ads_config": _api_config_source(variant), **found} if variant in {"delta", "sotw"} else found


def _api_config_source(variant: Variant) -> dict[str, Any]:
    if variant == "rest":
        return {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": [XDS_CLUSTER],
            "refresh_delay": _seconds(REFRESH),
            "request_timeout": _seconds(REST_TIMEOUT),
        }
    return {
        "api_type": "GRPC" if variant in {"sotw", "sotw-per-type"} else "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [_grpc_service(XDS_CLUSTER)],
    }


def _grpc_service(cluster: str) -> dict[str, Any]:
    # Envoy's own back-off grows to 30 s: an Envoy would run without a control plane for half a minute after a restart.
    back_off = {"base_interval": "0.1s", "max_interval": "1s"}
    return {"envoy_grpc": {"cluster_name": cluster, "retry_policy": {"retry_back_off": back_off}}}


def _control_plane(name: str, address: str, port: int, tls: ChannelTls | None, *, http2: bool) -> dict[str, Any]:
    keepalive = {"interval": "5s", "timeout": "3s"}
    protocol: dict[str, Any] = {
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
    }
    if not http2:
        # Before the API closes an idle connection (5 s), or a poll that crosses that on the wire fails.
        protocol = {
            "common_http_protocol_options": {"idle_timeout": "4s"},
            "explicit_http_config": {"http_protocol_options": {}},
        }
    socket = {} if tls is None else {"transport_socket": _tls_socket(tls)}
    return {
        "name": name,
        "type": "STATIC" if _is_ip(address) else "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                **protocol,
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(address, port)}}]}],
        },
        **socket,
    }


def _tls_socket(tls: ChannelTls) -> dict[str, Any]:
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            # Envoy's own default towards upstreams ends at 1.2.
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            **(_secret_references(tls) if tls.secrets else _secrets_inline(tls)),
        },
    }
    if not _is_ip(tls.server_name):
        context["sni"] = tls.server_name  # an address is no server name
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _secrets_inline(tls: ChannelTls) -> dict[str, Any]:
    return {"tls_certificates": [_own_certificate(tls)], "validation_context": _validation(tls)}


def _secret_references(tls: ChannelTls) -> dict[str, Any]:
    def reference(name: str) -> dict[str, Any]:
        path = f"{tls.secrets.rstrip('/')}/{_secret_file(name)}"
        source = {"path_config_source": {"path": path}, "resource_api_version": "V3"}
        return {"name": name, "sds_config": source}

    return {
        "tls_certificate_sds_secret_configs": [reference(OWN_CERTIFICATE)],
        "validation_context_sds_secret_config": reference(CONTROL_PLANE_CA),
    }


def _own_certificate(tls: ChannelTls) -> dict[str, Any]:
    return {"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}}


def _validation(tls: ChannelTls) -> dict[str, Any]:
    san_type = "IP_ADDRESS" if _is_ip(tls.server_name) else "DNS"
    return {
        "trusted_ca": {"filename": tls.ca},
        "match_typed_subject_alt_names": [{"san_type": san_type, "matcher": {"exact": tls.server_name}}],
    }


def _secret_file(name: str) -> str:
    return f"{name}.json"


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def _socket(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _seconds(span: dt.timedelta) -> str:
    return f"{span.total_seconds():g}s"


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
