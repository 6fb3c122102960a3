"""What a real Envoy says of a configuration before any Envoy of the fleet is given it.

Context: some of what Envoy refuses only its own code knows (RE2's syntax, filters' own checks). Choice: the resources
are written into one static bootstrap, which `envoy --mode validate` reads without opening a port. Consequence: 80 to
190 ms for an answer, so answers are remembered, and what a moving rollout changes is no part of the question.
"""

import asyncio
import contextlib
import datetime as dt
import functools
import hashlib
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from google.protobuf.message import Message

from controlplane.ports import CompiledConfig
from controlplane.xds.kinds import Kind
from controlplane.xds.references import is_api_listener
from controlplane.xds.snapshot import read_messages
from controlplane.xds.translate import pack

log = structlog.get_logger()

ANSWER_WITHIN: Final = dt.timedelta(seconds=10)
"""A validation takes 0.2 s; a machine that needs longer than this is no judge of a configuration."""

REMEMBERED: Final = 200
"""Answers that are not asked for again."""

_REFUSAL: Final = re.compile(r"error initializing configuration '[^']*': (.*)", re.DOTALL)
_BROKEN_RULE: Final = re.compile(r"Proto constraint validation failed \((?:.*caused by )?(.*?)\)\s*$", re.DOTALL)
_DEBUG: Final = re.compile(r"goo\.gle/debug\w+")
"""What protobuf writes before a message in debug form, so that nobody parses that."""
_MAX_WORDS: Final = 500


class EnvoyValidator:
    """The port `ConfigCheck`, by an Envoy binary; one question at a time, since each takes a core.

    Args:
        binary: Envoy's program.
        within: How long to wait for its answer.

    *unanswered* counts the questions that it could not answer.
    """

    def __init__(self, binary: Path, *, within: dt.timedelta = ANSWER_WITHIN) -> None:
        self._binary = binary
        self._within = within
        self._turn = asyncio.Lock()
        self._answers: dict[str, str] = {}
        self.unanswered = 0

    async def refusal(self, config: CompiledConfig) -> str | None:
        """Return why Envoy would refuse *config*, in its own words; None if it would not, or cannot be asked."""
        bootstrap = static_bootstrap(config.content).SerializeToString(deterministic=True)
        key = hashlib.sha256(bootstrap).hexdigest()
        async with self._turn:
            if key not in self._answers:
                output = await self._validate(bootstrap)
                self.unanswered += output is None
                if len(self._answers) >= REMEMBERED:
                    self._answers.pop(next(iter(self._answers)))
                # No answer is one, too: whoever publishes must not wait for a sick Envoy at every change of a weight.
                self._answers[key] = words_of(output) if output else ""
            return self._answers[key] or None

    async def _validate(self, bootstrap: bytes) -> str | None:
        """Return what Envoy printed when it refused, "" when it did not, None when it gave no answer."""
        with tempfile.TemporaryDirectory(prefix="hueshift-validate-") as folder:  # ours alone: it may hold keys
            file = Path(folder) / "config.pb"
            file.write_bytes(bootstrap)
            try:
                process = await asyncio.create_subprocess_exec(
                    str(self._binary),
                    "--mode",
                    "validate",
                    "--config-path",
                    str(file),
                    "--log-level",
                    "error",
                    "--disable-hot-restart",
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as exc:
                log.warning("config_check.not_started", binary=str(self._binary), words=str(exc))
                return None
            try:
                async with asyncio.timeout(self._within.total_seconds()):
                    _, printed = await process.communicate()
            except TimeoutError:
                log.warning("config_check.timed_out", seconds=self._within.total_seconds())
                return None
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        output = printed.decode(errors="replace")
        if process.returncode == 0:
            return ""
        if _REFUSAL.search(output) is None:
            log.warning("config_check.failed", code=process.returncode, words=_short(output))
            return None
        return output


def words_of(output: str) -> str:
    """Return the reason in what Envoy printed: without the message that it found wrong, which may be pages long."""
    found = _REFUSAL.search(output)
    reason = output if found is None else found[1]
    broken = _BROKEN_RULE.search(reason)
    return _short(reason if broken is None else broken[1])


def static_bootstrap(content: bytes) -> Any:
    """Return the resources of a compiled configuration as a bootstrap that needs no control plane.

    What a rollout moves is left out, so that moving it asks nothing new: a split of names and weights, which our own
    checks have read, becomes one that is always the same.
    """
    messages = read_messages(content)
    clusters = messages[Kind.CDS]
    bootstrap = bootstrap_pb2.Bootstrap()
    secrets: set[str] = set()
    for routes in messages[Kind.RDS].values():
        _level_splits(routes, min(clusters, default=""))
    for listener in messages[Kind.LDS].values():
        if not is_api_listener(listener):  # those are gRPC's; an Envoy takes none
            _inline_routes(listener, messages[Kind.RDS])
            secrets.update(_name_secrets(listener))
            bootstrap.static_resources.listeners.append(listener)
    for name, cluster in clusters.items():
        _inline_endpoints(name, cluster, messages[Kind.EDS])
        bootstrap.static_resources.clusters.append(cluster)
    bootstrap.static_resources.secrets.extend(_stand_in(name) for name in sorted(secrets))
    return bootstrap


def _level_splits(routes: route_pb2.RouteConfiguration, cluster: str) -> None:
    for host in routes.virtual_hosts:
        for route in host.routes:
            split = route.route.weighted_clusters
            if split.clusters and all(_is_plain(share) for share in split.clusters):
                del split.clusters[:]
                split.clusters.add(name=cluster).weight.value = 1


def _is_plain(share: Any) -> bool:
    return {field.name for field, _ in share.ListFields()} <= {"name", "weight"}


def _inline_routes(listener: Any, routes: Mapping[str, Message]) -> None:
    for chain in listener.filter_chains:
        for network_filter in chain.filters:
            config = network_filter.typed_config
            if config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
                manager = hcm_pb2.HttpConnectionManager.FromString(config.value)
                if manager.HasField("rds"):
                    manager.route_config.CopyFrom(routes[manager.rds.route_config_name])
                config.CopyFrom(pack(manager))


def _name_secrets(listener: Any) -> Iterable[str]:
    """Let the listener find its certificates among the static ones, which are named without a source; return them."""
    for chain in listener.filter_chains:
        config = chain.transport_socket.typed_config
        if config.Is(tls_pb2.DownstreamTlsContext.DESCRIPTOR):
            context = tls_pb2.DownstreamTlsContext.FromString(config.value)
            for secret in context.common_tls_context.tls_certificate_sds_secret_configs:
                secret.ClearField("sds_config")
                yield secret.name
            config.CopyFrom(pack(context))


def _stand_in(name: str) -> secret_pb2.Secret:
    """Return a certificate of nobody: a configuration holds none, and the real one is not for files."""
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes, secret.tls_certificate.private_key.inline_bytes = _nobody()
    return secret


@functools.cache  # for as long as the process lives: the same question must be the same bytes
def _nobody() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), serial_number=1)
        .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(3000, 1, 1, tzinfo=dt.UTC))
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
    )


def _inline_endpoints(name: str, cluster: Any, endpoints: Mapping[str, Message]) -> None:
    if cluster.type != cluster_pb2.Cluster.EDS:
        return
    cluster.load_assignment.CopyFrom(endpoints[cluster.eds_cluster_config.service_name or name])
    cluster.load_assignment.cluster_name = name
    cluster.ClearField("eds_cluster_config")
    cluster.type = cluster_pb2.Cluster.STATIC


def _short(text: str) -> str:
    line = " ".join(_DEBUG.sub("", text).split())
    return line if len(line) <= _MAX_WORDS else f"{line[:_MAX_WORDS]}..."
