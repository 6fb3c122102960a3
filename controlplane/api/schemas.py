"""The document of a service, as engineers write it in YAML or send it as JSON.

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

from pydantic import BaseModel, ConfigDict, Field

from controlplane.api.values import Address, Milliseconds, Query, Ratio, Span, Visible, Weight

DEFAULT_STEPS_BP = (500, 1_000, 2_500, 5_000, 10_000)
DEFAULT_HOLD = dt.timedelta(seconds=30)

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
