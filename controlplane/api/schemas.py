"""The document of a service, as engineers write it in YAML or send it as JSON, and the requests that change traffic.

This is the one place that reads such documents: `hueshift lint`, `hueshift apply` and the API share it. A field that
is not known is refused, never ignored. What may be left out, and what it then is:

- ``listener``: named ``<service>_listener``, on 0.0.0.0, port 8080, statistics under ``ingress_http``, in plaintext;
  ``tls: {certificate: NAME}`` has it speak TLS with that certificate of the control plane's host;
- ``virtual_host`` ``<service>_service``, ``route_config`` ``<service>_route``, ``domains`` ``*``;
- ``grpc_target``: no gRPC client dials the service over xDS; with a name, ``xds:///NAME`` follows the same weights;
- a version's ``cluster``: ``<service>-<version>``; its ``health_check``: GET /healthz every second;
- a route's ``match``: every path; its ``timeout``: 300 s;
- ``split``: everything to the first version;
- ``mirror``: no version gets copies of requests;
- ``draw_header``: chance alone decides which version a request of the split is for;
- ``plan``: 5, 10, 25, 50, 100 %, each held for 30 s, at most 2 h in all.

How many requests may fail, and how long they may take, has no default: that is for the owner to say. That the share
of answers which blame the client stays what it was is an objective of every service (``kind: client_errors``).
"""

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from controlplane.api import units
from controlplane.api.problems import custom_error, unit_error
from controlplane.errors import InvalidInputError

DEFAULT_STEPS_BP = (500, 1_000, 2_500, 5_000, 10_000)
DEFAULT_HOLD = dt.timedelta(seconds=30)
MAX_WHY_CHARS = 500

EXAMPLES: Mapping[str, str] = {
    "service": "colorize",
    "name": "v1",
    "path": "/healthz",
    "grpc_target": "colorize",
    "port": "8080",
    "certificate": "colorize.example.org",
    "versions": "- {name: v1, endpoints: [worker:8083]}",
    "endpoints": "[worker:8083]",
    "routes": "- {name: all, split: true}",
    "slos": "- {name: errors, kind: error_rate, max: 1%}",
    "max": "1%",
    "threshold": "400ms",
    "quantile": "95%",
    "steps": "[{weight: 5%}, {weight: 100%}]",
    "weight": "5%",
    "share": "10%",
    "weights": "{v1: 90%, v2: 10%}",
    "to": "v2",
    "checksum": "sha256:98ce4f256dde… (hueshift-worker models show NAME)",
}


# -- how values are written --------------------------------------------------------------------------------------------


def _read_span(value: object) -> object:
    if isinstance(value, dt.timedelta):
        return value
    try:
        return units.parse_span(value)
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_size(value: object) -> int:
    try:
        return units.parse_bytes(value)
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_ms(value: object) -> float:
    try:
        return float(units.parse_span_ms(value))
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_ratio(value: object) -> float:
    try:
        return float(units.parse_ratio(value))
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_weight(value: object) -> int:
    try:
        return units.parse_weight_bp(value)
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_endpoint(value: object) -> object:
    fix = "write host:port, for example worker:8083 or [::1]:8083"
    if not isinstance(value, str):
        raise custom_error(f"{value!r} is not an endpoint", fix)
    text = value.strip()
    host, colon, port = text.rpartition(":")
    if "/" in text or not colon:
        raise custom_error(f"{text[:80]!r} is not an endpoint", fix)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise custom_error(f"{text[:80]!r} is not an endpoint", fix)
    if not host or any(char.isspace() or not char.isprintable() for char in host):
        raise custom_error(f"{text[:80]!r} names no host", fix)
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise custom_error(f"{port[:20]!r} is not a port", "use 1 to 65535")
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"


def _read_moment(value: object) -> dt.datetime:
    fix = "write it like 2026-12-01T22:00:00Z"
    if not isinstance(value, str):
        raise custom_error(f"{value!r} is not a time", fix)
    try:
        moment = dt.datetime.fromisoformat(value)
        utc = moment.astimezone(dt.UTC)
    except (ValueError, OverflowError) as exc:
        raise custom_error(f"{value[:40]!r} is not a time", fix) from exc
    if moment.tzinfo is None:
        raise custom_error(f"{value[:40]} has no time zone", "add one, as 2026-12-01T22:00:00Z")
    return utc


def _read_visible(value: str) -> str:
    if not value.isprintable():
        raise custom_error(f"{value[:40]!r} holds characters that cannot be seen", "use visible ones")
    return value


def _read_query(value: object) -> object:
    """Let a query be written on several lines."""
    return _read_visible(" ".join(value.split())) if isinstance(value, str) else value


def _is_written(kind: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": kind, "examples": list(examples)})


Span = Annotated[
    dt.timedelta,
    BeforeValidator(_read_span),
    PlainSerializer(units.format_span, return_type=str),
    _is_written("A time with its unit: ms, s, m, h or d.", "300s", "1.5s", "100ms", "2h"),
]
Size = Annotated[
    int,
    BeforeValidator(_read_size),
    PlainSerializer(units.format_bytes, return_type=str),
    _is_written("A number of bytes with its unit: B, KiB, MiB, GiB or TiB.", "20GiB", "500MiB"),
]
Milliseconds = Annotated[
    float,
    BeforeValidator(_read_ms),
    PlainSerializer(units.format_ms, return_type=str),
    _is_written("A time with its unit: ms, s, m, h or d.", "400ms", "1.5s"),
]
Ratio = Annotated[
    float,
    BeforeValidator(_read_ratio),
    PlainSerializer(units.format_ratio, return_type=str),
    _is_written("A percentage, or a fraction with a decimal point.", "1%", "0.01"),
]
Weight = Annotated[
    int,
    BeforeValidator(_read_weight),
    PlainSerializer(units.format_weight, return_type=str),
    _is_written("A percentage in hundredths of a percent.", "5%", "0.01%"),
]
Visible = Annotated[str, AfterValidator(_read_visible)]
Query = Annotated[str, BeforeValidator(_read_query), Field(description="PromQL, with $version, $cluster or $service.")]
Moment = Annotated[
    dt.datetime,
    BeforeValidator(_read_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-12-01T22:00:00Z"]}),
]
Address = Annotated[str, BeforeValidator(_read_endpoint), _is_written("host:port", "worker:8083", "[::1]:8083")]


class Document(BaseModel):
    """Base of everything that is read: a field that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def known_fields() -> frozenset[str]:
    """Return every field name of every document, to guess what a misspelt one should be."""
    found: set[str] = set()
    waiting: list[type[BaseModel]] = [Document]
    while waiting:
        model = waiting.pop()
        found |= set(model.model_fields)
        waiting += model.__subclasses__()
    return frozenset(found)


# -- the service -------------------------------------------------------------------------------------------------------


class ListenerTlsDocument(Document):
    """TLS towards the service's clients."""

    certificate: str


class ListenerDocument(Document):
    """Where Envoy listens for the service's clients."""

    name: str | None = None
    address: str = "0.0.0.0"
    port: int = 8080
    stat_prefix: str = "ingress_http"
    tls: ListenerTlsDocument | None = None


class HealthCheckDocument(Document):
    """How Envoy asks a worker whether it can take requests."""

    path: Visible = "/healthz"
    interval: Span = dt.timedelta(seconds=1)
    timeout: Span = dt.timedelta(seconds=1)
    healthy_threshold: int = 1
    unhealthy_threshold: int = 2


class ModelDocument(Document):
    """The one model that a version's workers must serve, as they report it at ``/models``."""

    name: str
    checksum: str
    code_version: str = ""


class VersionDocument(Document):
    """One model version and its workers."""

    name: str
    cluster: str | None = None
    endpoints: list[Address]
    health_check: HealthCheckDocument = HealthCheckDocument()
    connect_timeout: Span = dt.timedelta(seconds=10)
    model: ModelDocument | None = None


class HeaderDocument(Document):
    """A condition on a request header: give one of *exact*, *regex* (RE2, the whole value) and *present*."""

    name: str
    exact: Visible | None = None
    regex: Visible | None = None
    present: Literal[True] | None = None


class MatchDocument(Document):
    """Which requests a route takes."""

    prefix: Visible = "/"
    headers: list[HeaderDocument] = []


class RouteDocument(Document):
    """Where matching requests go: to one *version*, or (``split: true``) to the split that rollouts move."""

    name: str
    match: MatchDocument = MatchDocument()
    version: str | None = None
    split: bool | None = None
    timeout: Span = dt.timedelta(seconds=300)


class MirrorDocument(Document):
    """Copies of a *share* of the split's requests for the version *to*; their answers are dropped, and not judged."""

    to: str
    share: Weight


class ObjectiveDocument(Document):
    """What every objective has: its name, and what a breach leads to."""

    name: str
    on_breach: Literal["rollback", "pause"] = Field(
        default="rollback", description="Take all traffic back at once, or stand still and ask a person."
    )
    muted: bool = Field(default=False, description="Judge and show it, but let it decide nothing.")


class TermsDocument(ObjectiveDocument):
    """What the objectives have that are judged every second: how sure the judge must be."""

    alpha: Ratio | None = Field(
        default=None, description="Its own part of the 1 % of healthy rollouts that may be rolled back by chance."
    )
    tolerance: float | None = Field(
        default=None, description="How many times worse than the old version it may be: odds, for latency time."
    )
    budget: float = Field(default=10.0, description="Bad requests beyond it that a step may risk.")
    quiet: Span = Field(default=dt.timedelta(seconds=30), description="How long it must be kept before a step up.")


class ErrorRateDocument(TermsDocument):
    """At most *max* of the requests fail. *bad*: which answers are failures, by default 5xx and 429."""

    kind: Literal["error_rate"]
    max: Ratio
    bad: list[Visible] | None = None


class LatencyDocument(TermsDocument):
    """At least *quantile* of the requests are answered within *threshold*."""

    kind: Literal["latency"]
    threshold: Milliseconds
    quantile: Ratio


class ClientErrorsDocument(TermsDocument):
    """Answers that blame the client are no more frequent than the old version's, once above *floor*, nor than *max*.

    Every service has this objective, without *max*; declare it to change it, or to mute it.
    """

    kind: Literal["client_errors"]
    max: Ratio | None = None
    floor: Ratio = 0.01
    bad: list[Visible] | None = None


class QueryRatioDocument(TermsDocument):
    """At most *max* of what *total* counts is *bad*: Prometheus queries for counters, with $version or $cluster."""

    kind: Literal["query_ratio"]
    bad: Query
    total: Query
    max: Ratio
    interval: Span = dt.timedelta(seconds=5)


class QueryValueDocument(TermsDocument):
    """A Prometheus query's value stays within *min* and *max*, in all but *max_share* of the times it is asked."""

    kind: Literal["query_value"]
    query: Query
    max: float | None = None
    min: float | None = None
    max_share: Ratio = 0.1
    interval: Span = dt.timedelta(seconds=5)


class QualityDocument(ObjectiveDocument):
    """Both versions make pictures of the same photos: none of the new one's is broken, and they are alike.

    *delta_e*, *hue* (degrees), *chroma*, *ssim* and *feature_distance* bound the difference; *on_drift* says what
    follows beyond them. Asked before a step with ``quality: true`` (the first, unless it says false), and every
    *interval* under traffic.
    """

    kind: Literal["quality"]
    delta_e: float = 3.0
    hue: float = 10.0
    chroma: Ratio = 0.25
    ssim: float = 0.9
    on_drift: Literal["allow", "ask", "block"] = "allow"
    photos: int = Field(default=0, description="How many of the test set are sent to each version; 0 is all.")
    interval: Span = dt.timedelta(minutes=10)
    path: Visible = Field(default="/repair", description="Where the workers take photos.")
    feature_distance: float = 0.15
    live: bool = Field(default=False, description="Whether mirrored requests that workers keep are compared as well.")


SloDocument: TypeAlias = Annotated[
    ErrorRateDocument
    | LatencyDocument
    | ClientErrorsDocument
    | QueryRatioDocument
    | QueryValueDocument
    | QualityDocument,
    Field(discriminator="kind"),
]


class StepDocument(Document):
    """One step of a plan: the candidate's weight, how long it is held, whether a person must let it go on.

    *quality* says whether it waits for a verdict on the candidate's pictures, before its traffic.
    """

    weight: Weight
    hold: Span = DEFAULT_HOLD
    pause: bool = False
    quality: bool | None = None


class PlanDocument(Document):
    """The way from nothing to everything."""

    steps: list[StepDocument] = [StepDocument.model_construct(weight=weight_bp) for weight_bp in DEFAULT_STEPS_BP]
    deadline: Span = dt.timedelta(hours=2)
    prepare_timeout: Span = dt.timedelta(minutes=5)


class ServiceDocument(Document):
    """A service, whole."""

    service: str
    listener: ListenerDocument = ListenerDocument()
    virtual_host: str | None = None
    route_config: str | None = None
    domains: list[Visible] = ["*"]
    grpc_target: Visible = ""
    versions: list[VersionDocument]
    routes: list[RouteDocument]
    split: dict[str, Weight] | None = None
    mirror: MirrorDocument | None = Field(default=None, exclude_if=lambda value: value is None)
    draw_header: Visible = Field(
        default="",
        exclude_if=lambda value: not value,
        description="A header whose number, 0 to 9999, takes the place of chance; for trusted callers only.",
    )
    slos: list[SloDocument]
    plan: PlanDocument = PlanDocument()
    groups: list[Visible] = Field(
        default_factory=list, description="The groups of Envoys that serve it; none means every Envoy."
    )
    config_canary: Span = Field(
        default=dt.timedelta(0),
        description="How long one Envoy of each group runs a new revision, healthy, before the others do; 0 is off.",
    )


# -- requests ----------------------------------------------------------------------------------------------------------


def one_line(field: str, text: str) -> str:
    """Return a reason on one line, without control characters: it goes into the audit and onto terminals.

    Raises:
        InvalidInputError: It is too long.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if len(line) > MAX_WHY_CHARS:
        raise InvalidInputError(field, f"has {len(line)} characters", f"use at most {MAX_WHY_CHARS}")
    return line


def _read_why(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return one_line("why", value)
    except InvalidInputError as exc:
        raise custom_error(exc.problem, exc.fix) from exc


Why = Annotated[str, BeforeValidator(_read_why), Field(description="The reason, for the audit; one line.")]


def _read_step(value: object) -> object:
    """Let a step be just its weight."""
    return {"weight": value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value


class StartRequest(Document):
    """Start a rollout to the version *to*. *steps* replaces those of the service's plan, *plan* the whole of it.

    *replaces* names the version whose traffic moves, where several have some; the others keep theirs.

    Where a rollout is active already, *supersede* takes it back to zero first and *queue* waits until it has ended,
    *only_after_success* only if it was promoted; *at* waits for that time, and then for what is active. A version that
    failed is started *again* only when that is said.
    """

    to: str
    replaces: str | None = None
    steps: list[Annotated[StepDocument, BeforeValidator(_read_step)]] | None = None
    plan: PlanDocument | None = None
    supersede: bool = False
    queue: bool = False
    only_after_success: bool = False
    at: Moment | None = None
    again: bool = False
    why: Why = ""

    @property
    def waits(self) -> bool:
        """Whether it may have to wait."""
        return self.supersede or self.queue or self.at is not None


class UndoRequest(Document):
    """Give traffic back: to the version *to*, or to the one before the last promotion."""

    to: str | None = None
    why: Why = ""


class FreezeRequest(Document):
    """Let nothing get more traffic *until* then."""

    until: Moment
    why: Why = ""


class CommandRequest(Document):
    """Move the active rollout; *why* goes into the audit."""

    why: Why = ""


class PromoteRequest(CommandRequest):
    """Take the next step, or with *full* the last one, without waiting for the judge."""

    full: bool = False


class SplitRequest(Document):
    """Set the live split by hand, outside a rollout. Versions that are not named get nothing."""

    weights: dict[str, Weight]
    why: Why = ""


class ReplayRequest(Document):
    """Judge a rollout's record again: by the *slos* given, or else by its own. *all* asks for every second."""

    slos: list[SloDocument] | None = None
    all: bool = False
