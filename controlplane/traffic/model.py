"""The catalogue in words no proxy owns: a service, its versions, its routes, and the plan of what is served now.

Values are frozen and check their own invariants; a broken one cannot be built. Weights are basis points, parts of
10,000, and always sum to 10,000, so that a user's place in a sticky split never moves when another weight does.
"""

import dataclasses
import datetime as dt
import enum
import ipaddress
import re
from collections.abc import Mapping, Sequence

from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.rollout.model import FULL_WEIGHT_BP, Plan
from controlplane.rollout.quality import check_demands
from controlplane.rollout.slo import Slo, check_slos, quality_slo

NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
GRPC_TARGET = re.compile(r"[a-z0-9]([a-z0-9._-]{0,250}[a-z0-9])?(:[0-9]{1,5})?")
CERTIFICATE_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
MAX_MODEL_WORD = 128
HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def check_name(field: str, value: str) -> None:
    """Refuse a name that could not be an Envoy cluster name and part of a URL: dots would split Envoy's statistics."""
    if not NAME.fullmatch(value):
        raise InvalidInputError(field, f"{value!r} is not a name", "use 1 to 63 of a-z, 0-9, - and _, no dots")


def check_names(field: str, names: Sequence[str]) -> None:
    """Raise InvalidInputError unless there are *names*, each of them once."""
    if not names:
        raise InvalidInputError(field, "is empty", "name at least one")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError(field, f"{twice!r} is named twice", "give each its own name")


def check_certificate(field: str, value: str) -> None:
    """Refuse what could not be the name of a certificate: a host name, or a word like one."""
    if not CERTIFICATE_NAME.fullmatch(value) or ".." in value:
        raise InvalidInputError(field, f"{value!r} is not a certificate's name", "use a-z, 0-9, -, _ and dots")


def check_port(field: str, value: int) -> None:
    """Refuse a TCP port outside 1..65535."""
    if not 1 <= value <= 65535:
        raise InvalidInputError(field, f"{value} is not a port", "use 1 to 65535")


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one worker listens: an IP address or a host name, and a TCP port."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or len(self.host) > 253:
            raise InvalidInputError("endpoint.host", f"{self.host!r} is not a host", "name a host or an IP address")
        check_port("endpoint.port", self.port)

    @property
    def is_address(self) -> bool:
        """Whether the host is already an IP address and needs no look-up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


@dataclasses.dataclass(frozen=True, slots=True)
class HealthCheck:
    """How Envoy asks a worker whether it can take requests. The counts are consecutive answers."""

    path: str = "/healthz"
    interval: dt.timedelta = dt.timedelta(seconds=1)
    timeout: dt.timedelta = dt.timedelta(seconds=1)
    healthy_threshold: int = 1
    unhealthy_threshold: int = 2

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise InvalidInputError("health_check.path", f"{self.path!r} is not a path", "start it with /")
        for field, span in (("interval", self.interval), ("timeout", self.timeout)):
            if not dt.timedelta(milliseconds=100) <= span <= dt.timedelta(minutes=5):
                raise InvalidInputError(f"health_check.{field}", f"{span} is out of range", "use 0.1 s to 5 min")
        for field, count in (
            ("healthy_threshold", self.healthy_threshold),
            ("unhealthy_threshold", self.unhealthy_threshold),
        ):
            if not 1 <= count <= 100:
                raise InvalidInputError(f"health_check.{field}", f"{count} is out of range", "use 1 to 100")


@dataclasses.dataclass(frozen=True, slots=True)
class ModelPin:
    """The one model that a version's workers must serve: its name and *checksum*, as they report them.

    A *code_version* pins the worker's program too; "" takes any.
    """

    name: str
    checksum: str
    code_version: str = ""

    def __post_init__(self) -> None:
        for field, word in (("name", self.name), ("code_version", self.code_version)):
            if len(word) > MAX_MODEL_WORD or not word.isprintable() or (field == "name" and not word.strip()):
                raise InvalidInputError(
                    f"model.{field}",
                    f"{word[:40]!r} is not what a worker reports",
                    f"use 1 to {MAX_MODEL_WORD} printable characters; hueshift-worker models show NAME prints it",
                )
        if not CHECKSUM.fullmatch(self.checksum):
            raise InvalidInputError(
                "model.checksum",
                f"{self.checksum[:80]!r} is not a checksum",
                "use sha256: and 64 lower-case hexadecimal digits; hueshift-worker models show NAME prints it",
            )

    def __str__(self) -> str:
        kind, _, digits = self.checksum.partition(":")
        code = f" by code {self.code_version}" if self.code_version else ""
        return f"{self.name} ({kind}:{digits[:12]}){code}"


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """One model version: its Envoy cluster's name, its workers, and how they are asked for their health.

    With a *model*, workers that serve another one keep the version from being given more traffic by a rollout.
    """

    name: str
    cluster: str
    endpoints: tuple[Endpoint, ...]
    health_check: HealthCheck = HealthCheck()
    connect_timeout: dt.timedelta = dt.timedelta(seconds=10)
    model: ModelPin | None = None

    def __post_init__(self) -> None:
        check_name("version.name", self.name)
        check_name(f"versions.{self.name}.cluster", self.cluster)
        if len(set(self.endpoints)) != len(self.endpoints):
            raise InvalidInputError(f"versions.{self.name}.endpoints", "an endpoint is named twice", "name each once")
        if not dt.timedelta(milliseconds=1) <= self.connect_timeout <= dt.timedelta(minutes=5):
            raise InvalidInputError(
                f"versions.{self.name}.connect_timeout",
                f"{self.connect_timeout} is out of range",
                "use 1 ms to 5 min",
            )


class HeaderRule(enum.Enum):
    """How a header's value is compared."""

    EXACT = "exact"
    REGEX = "regex"
    PRESENT = "present"


@dataclasses.dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A condition on a request header. *value* is empty for PRESENT; a REGEX is RE2's and matches the whole value."""

    name: str
    rule: HeaderRule = HeaderRule.PRESENT
    value: str = ""

    def __post_init__(self) -> None:
        if not HEADER_NAME.fullmatch(self.name):
            raise InvalidInputError("match.headers", f"{self.name!r} is not a header name", "use a lower-case token")
        if (self.rule is HeaderRule.PRESENT) == bool(self.value):
            raise InvalidInputError(
                f"match.headers.{self.name}",
                "needs a value exactly when it compares one",
                "set exact or regex",
            )


@dataclasses.dataclass(frozen=True, slots=True)
class RouteMatch:
    """Which requests a route takes: a path prefix and conditions on headers, all of which must hold."""

    prefix: str = "/"
    headers: tuple[HeaderMatch, ...] = ()

    def __post_init__(self) -> None:
        if not self.prefix.startswith("/"):
            raise InvalidInputError("match.prefix", f"{self.prefix!r} is not a path prefix", "start it with /")


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """Where matching requests go: to one *version* by name, or (None) to the service's split, which rollouts move."""

    name: str
    match: RouteMatch
    version: str | None = None
    timeout: dt.timedelta = dt.timedelta(seconds=300)

    def __post_init__(self) -> None:
        check_name("route.name", self.name)
        if not dt.timedelta(0) < self.timeout <= dt.timedelta(hours=1):
            raise InvalidInputError(f"routes.{self.name}.timeout", f"{self.timeout} is out of range", "use up to 1 h")


@dataclasses.dataclass(frozen=True, slots=True)
class Listener:
    """Where Envoy listens for a service's clients. *address* is a bind address, an IP.

    With a *certificate*, by its name on the control plane's host, it speaks TLS; "" is plaintext.
    """

    name: str
    address: str
    port: int
    stat_prefix: str = "ingress_http"
    certificate: str = ""

    def __post_init__(self) -> None:
        check_name("listener.name", self.name)
        if self.certificate:
            check_certificate("listener.tls.certificate", self.certificate)
        check_name("listener.stat_prefix", self.stat_prefix)
        check_port("listener.port", self.port)
        try:
            ipaddress.ip_address(self.address)
        except ValueError as exc:
            raise InvalidInputError(
                "listener.address", f"{self.address!r} is not an IP address", "use 0.0.0.0 or 127.0.0.1"
            ) from exc


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """A version's part of the split, in basis points of the requests that the split takes."""

    version: str
    weight_bp: int

    def __post_init__(self) -> None:
        if not 0 <= self.weight_bp <= FULL_WEIGHT_BP:
            raise InvalidInputError(
                f"split.{self.version}", f"{self.weight_bp / 100:g} % is out of range", "use 0 % to 100 %"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of a share of the split's requests for the version *to*, whose answers nobody gets.

    They go to a cluster of their own, so that telemetry counts none of them as a user's request.
    """

    to: str
    share_bp: int

    def __post_init__(self) -> None:
        if not 1 <= self.share_bp <= FULL_WEIGHT_BP:
            raise InvalidInputError(
                "mirror.share", f"{self.share_bp / 100:g} % is out of range", "use 0.01 % to 100 %, or leave mirror out"
            )


SHADOW_SUFFIX = "-shadow"
"""What the cluster of copies is called, after the version's own."""

MAX_CONFIG_CANARY = dt.timedelta(hours=1)

Split = tuple[Share, ...]
"""Shares in Envoy's order, stable first; they sum to 10,000."""


def check_split(split: Split) -> None:
    """Refuse a split that names a version twice or does not sum to 100 %."""
    names = [share.version for share in split]
    if len(set(names)) != len(names):
        raise InvalidInputError("split", "a version is named twice", "name each version once")
    total = sum(share.weight_bp for share in split)
    if total != FULL_WEIGHT_BP:
        raise InvalidInputError("split", f"the weights sum to {total / 100:g} %", "make them sum to 100 %")


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What an engineer declares of a service, whole: one revision of it never changes.

    *initial_split* takes effect when the service is first applied; from then on rollouts own the split. *groups* names
    the groups of Envoys that serve it; none means every Envoy. A new revision whose *config_canary* is not zero goes to
    one Envoy of each group first, and to the others when that one has run it, healthy, for so long.
    A service with a *grpc_target* is also reached without any Envoy, by gRPC clients that dial ``xds:///`` and that
    name: its workers speak gRPC, to Envoys too, and answer for their health as ``grpc.health.v1`` instead of at a path.
    With a *mirror*, a version gets copies of requests before any user depends on it.
    With a *draw_header*, a request that has this header, a number from 0 to 9999, is given its version by that number
    instead of by chance: the first version of the split has the lowest ones. It is for callers that are trusted, such
    as our own jobs; Envoy takes it away before a worker sees it.
    """

    name: str
    listener: Listener
    virtual_host: str
    route_config: str
    versions: tuple[Version, ...]
    routes: tuple[Route, ...]
    initial_split: Split
    slos: tuple[Slo, ...]
    plan: Plan
    domains: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ()
    config_canary: dt.timedelta = dt.timedelta(0)
    grpc_target: str = ""
    mirror: Mirror | None = None
    draw_header: str = ""

    def __post_init__(self) -> None:
        check_name("service", self.name)
        self._check_grpc()
        self._check_mirror()
        self._check_draw()
        for group in self.groups:
            check_name("groups", group)
        if len(set(self.groups)) != len(self.groups):
            raise InvalidInputError("groups", "a group is named twice", "name each group once")
        if not dt.timedelta(0) <= self.config_canary <= MAX_CONFIG_CANARY:
            raise InvalidInputError("config_canary", f"{self.config_canary} is out of range", "use 0 to 1 h")
        check_name("virtual_host", self.virtual_host)
        check_name("route_config", self.route_config)
        for field, names in (
            ("versions", [version.name for version in self.versions]),
            ("versions.cluster", [version.cluster for version in self.versions]),
            ("routes", [route.name for route in self.routes]),
            ("domains", list(self.domains)),
            ("slos", [slo.name for slo in self.slos]),
        ):
            check_names(field, names)
        check_slos(self.slos)
        check_demands(self.plan, self.slos)
        for route in self.routes:
            if route.version is not None:
                self.version(route.version, field=f"routes.{route.name}.version")
        if not any(route.version is None for route in self.routes):
            raise InvalidInputError("routes", "no route goes to the split", "give one route `split: true`")
        check_split(self.initial_split)
        for share in self.initial_split:
            self.version(share.version, field="split")

    def _check_grpc(self) -> None:
        if not self.grpc_target:
            return
        if not GRPC_TARGET.fullmatch(self.grpc_target):
            raise InvalidInputError(
                "grpc_target",
                f"{self.grpc_target!r} is not a name that gRPC can dial",
                "use a-z, 0-9, -, _ and dots, and :PORT if you like; clients dial xds:///NAME",
            )
        if self.grpc_target == self.listener.name:
            raise InvalidInputError(
                "grpc_target", f"{self.grpc_target!r} is the name of Envoy's listener", "choose another name"
            )
        pictures = quality_slo(self.slos)
        if pictures is not None:
            raise InvalidInputError(
                f"slos.{pictures.name}", "sends photos over HTTP, and these workers speak gRPC", "leave it out"
            )
        for version in self.versions:
            if version.health_check.path != HealthCheck().path:
                raise InvalidInputError(
                    f"versions.{version.name}.health_check.path",
                    "is never asked for: workers behind a grpc_target answer as grpc.health.v1",
                    "leave it out",
                )
            if version.model is not None:
                raise InvalidInputError(
                    f"versions.{version.name}.model",
                    "cannot be checked: workers behind a grpc_target are not asked for their model",
                    "leave it out",
                )

    def _check_mirror(self) -> None:
        if self.mirror is None:
            return
        if self.grpc_target:
            raise InvalidInputError(
                "mirror", "is nothing that gRPC clients without an Envoy do", "leave mirror or grpc_target out"
            )
        shadow = self.version(self.mirror.to, field="mirror.to").cluster + SHADOW_SUFFIX
        check_name(f"mirror.to: the cluster of {self.mirror.to}'s copies", shadow)
        if shadow in {version.cluster for version in self.versions}:
            raise InvalidInputError("mirror.to", f"the cluster {shadow!r} is another version's", "rename that one")

    def _check_draw(self) -> None:
        if not self.draw_header:
            return
        if not HEADER_NAME.fullmatch(self.draw_header) or not self.draw_header.startswith("x-"):
            raise InvalidInputError(
                "draw_header", f"{self.draw_header!r} is no header of your own", "use a lower-case token like x-draw"
            )
        if self.grpc_target:
            raise InvalidInputError(
                "draw_header",
                "is nothing that gRPC clients without an Envoy know",
                "leave draw_header or grpc_target out",
            )

    def version(self, name: str, *, field: str = "version") -> Version:
        """Return the version called *name*.

        Raises:
            NotFoundError: There is none; the message lists those there are.
        """
        for version in self.versions:
            if version.name == name:
                return version
        raise NotFoundError(field, name, tuple(version.name for version in self.versions))


@dataclasses.dataclass(frozen=True, slots=True)
class ServedService:
    """One service as it should be served now: its declaration and the split of this moment."""

    spec: ServiceSpec
    split: Split

    def __post_init__(self) -> None:
        check_split(self.split)


@dataclasses.dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Everything that the Envoys of one group should serve now.

    *addresses* holds the IP addresses of the endpoints' host names; a name that is missing has none yet.
    """

    services: tuple[ServedService, ...]
    addresses: Mapping[str, tuple[str, ...]]
