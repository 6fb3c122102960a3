"""Documents of `hueshift.dev/v1`: what engineers keep in a repository, each with its kind, its name and its labels.

A Service may hold everything itself, or leave parts to documents of their own: a Version names its service, an SLO
either names its service or is a set that services name, and so is a Plan. A Rollout is started once when it is
applied. In a service's ``slos`` a text is the name of an SLO, and ``plan: NAME`` that of a Plan.
"""

import difflib
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError

from controlplane.api.documents import document_of
from controlplane.api.problems import InvalidDocumentError, custom_error, from_pydantic
from controlplane.api.requests import StartRequest
from controlplane.api.schemas import (
    EXAMPLES,
    Document,
    HealthCheckDocument,
    ListenerDocument,
    MirrorDocument,
    ModelDocument,
    PlanDocument,
    RouteDocument,
    SloDocument,
    VersionDocument,
    known_fields,
)
from controlplane.api.values import Address, Span, Visible, Weight
from controlplane.errors import InvalidInputError
from controlplane.traffic.declared import DocumentKey
from controlplane.traffic.model import ServiceSpec, check_name

API_VERSION: Final = "hueshift.dev/v1"
MAX_LABELS: Final = 64
MAX_LABEL_CHARS: Final = 256
NAMED: Final = "(named)"
INLINE: Final = "(inline)"


def _read_name(value: str) -> str:
    try:
        check_name("name", value)
    except InvalidInputError as exc:
        raise custom_error(exc.problem, exc.fix) from exc
    return value


def _read_labels(value: dict[str, str]) -> dict[str, str]:
    if len(value) > MAX_LABELS:
        raise custom_error(f"has {len(value)} entries", f"use at most {MAX_LABELS}")
    for key, text in value.items():
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?", key) or len(key) > MAX_LABEL_CHARS:
            raise custom_error(f"{key[:40]!r} is not a key", "use letters, digits, dots, dashes, _ and /")
        if len(text) > MAX_LABEL_CHARS or not text.isprintable():
            raise custom_error(f"the value of {key!r} is not one short line", f"use up to {MAX_LABEL_CHARS} characters")
    return value


def _is_named(value: object) -> str:
    return NAMED if isinstance(value, str) else INLINE


Name: TypeAlias = Annotated[str, AfterValidator(_read_name)]
Labels: TypeAlias = Annotated[dict[str, str], AfterValidator(_read_labels)]
NamedSlo: TypeAlias = Annotated[
    Annotated[Name, Tag(NAMED)] | Annotated[SloDocument, Tag(INLINE)], Discriminator(_is_named)
]
NamedPlan: TypeAlias = Annotated[
    Annotated[Name, Tag(NAMED)] | Annotated[PlanDocument, Tag(INLINE)], Discriminator(_is_named)
]


class Metadata(Document):
    """What a document is called. Labels and annotations are yours: they are kept, and nothing is decided by them."""

    name: Name
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)


class ServiceBody(Document):
    """What a service is; see the defaults in `schemas`. Versions may stand here, or in documents of their own."""

    listener: ListenerDocument = ListenerDocument()
    virtual_host: str | None = None
    route_config: str | None = None
    domains: list[Visible] = Field(default=["*"])
    grpc_target: Visible = ""
    versions: list[VersionDocument] = Field(default_factory=list)
    routes: list[RouteDocument]
    split: dict[str, Weight] | None = Field(
        default=None, description="What a first apply sets; from then on rollouts and people own the split."
    )
    mirror: MirrorDocument | None = None
    draw_header: Visible = ""
    slos: list[NamedSlo] = Field(default=[], description="Objectives, or the names of SLO documents.")
    plan: NamedPlan = Field(default=PlanDocument(), description="How rollouts go, or the name of a Plan document.")
    groups: list[Visible] = Field(default_factory=list)
    config_canary: Span | None = None


class VersionBody(Document):
    """One model version of a service, and its workers."""

    service: Name
    cluster: str | None = None
    endpoints: list[Address]
    health_check: HealthCheckDocument = HealthCheckDocument()
    connect_timeout: Span | None = None
    model: ModelDocument | None = None


class SloBody(Document):
    """Objectives: of the *service*, or, without one, a set that services name in their ``slos``."""

    service: Name | None = None
    objectives: list[SloDocument]


class RolloutBody(StartRequest):
    """What `hueshift start` does, once: to change it is to start another one."""

    service: Name
    plan: NamedPlan | None = None  # type: ignore[assignment] # the name is resolved before it is a StartRequest
    replaces: str | None = Field(default=None, alias="from")


class Envelope(Document):
    """Base of all kinds."""

    api_version: Literal["hueshift.dev/v1"] = Field(alias="apiVersion")
    metadata: Metadata


class ServiceEnvelope(Envelope):
    """A service."""

    kind: Literal["Service"]
    spec: ServiceBody


class VersionEnvelope(Envelope):
    """A version of a service."""

    kind: Literal["Version"]
    spec: VersionBody


class SloEnvelope(Envelope):
    """Objectives."""

    kind: Literal["SLO"]
    spec: SloBody


class PlanEnvelope(Envelope):
    """The steps of rollouts, which services and rollouts name."""

    kind: Literal["Plan"]
    spec: PlanDocument


class RolloutEnvelope(Envelope):
    """A rollout that is started once."""

    kind: Literal["Rollout"]
    spec: RolloutBody


AnyEnvelope: TypeAlias = ServiceEnvelope | VersionEnvelope | SloEnvelope | PlanEnvelope | RolloutEnvelope

KINDS: Final[Mapping[str, type[AnyEnvelope]]] = {
    "Service": ServiceEnvelope,
    "Version": VersionEnvelope,
    "SLO": SloEnvelope,
    "Plan": PlanEnvelope,
    "Rollout": RolloutEnvelope,
}


def service_of(envelope: AnyEnvelope) -> str:
    """Return the service that a document belongs to, "" for a set of objectives or a plan."""
    match envelope:
        case ServiceEnvelope():
            return envelope.metadata.name
        case VersionEnvelope() | RolloutEnvelope():
            return envelope.spec.service
        case SloEnvelope():
            return envelope.spec.service or ""
        case PlanEnvelope():
            return ""


def key_of(envelope: AnyEnvelope) -> DocumentKey:
    """Return what there may be only one of: versions, objectives and rollouts are named within their service."""
    name, service = envelope.metadata.name, service_of(envelope)
    return envelope.kind, f"{service}/{name}" if service and envelope.kind != "Service" else name


def as_json(envelope: AnyEnvelope) -> dict[str, Any]:
    """Write a document as it was given, in one spelling of its values."""
    return envelope.model_dump(mode="json", by_alias=True, exclude_unset=True)


def service_envelope(spec: ServiceSpec, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Write a service as one document that says everything, defaults included."""
    whole = document_of(spec).model_dump(mode="json", exclude_none=True)
    body = {name: value for name, value in whole.items() if name != "service"}
    return {"apiVersion": API_VERSION, "kind": "Service", "metadata": dict(metadata), "spec": body}


def read_envelope(given: object) -> AnyEnvelope:
    """Validate one document; a service's old form, ``service: NAME``, is read as the Service it is.

    Raises:
        InvalidDocumentError: Something is missing, misspelt or of the wrong kind.
    """
    if not isinstance(given, Mapping):
        raise InvalidInputError("document", "is not a mapping", f"start it with apiVersion: {API_VERSION}")
    if is_bare(given):
        try:
            return read_envelope(_wrapped(given))
        except InvalidInputError as exc:
            unwrapped = [InvalidInputError(_bare_field(one.field), one.problem, one.fix) for one in exc.problems]
            raise InvalidDocumentError(unwrapped) from exc
    if (version := given.get("apiVersion")) != API_VERSION:
        problem = "is missing" if version is None else f"{version!r} is not known"
        raise InvalidInputError("apiVersion", problem, f"write apiVersion: {API_VERSION}")
    kind = given.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        fix = f"did you mean {close[0]}?" if close else f"use one of {', '.join(KINDS)}"
        raise InvalidInputError("kind", "is missing" if kind is None else f"{kind!r} is not known", fix)
    try:
        return model.model_validate(given)
    except ValidationError as exc:
        errors = [
            {**error, "loc": tuple(part for part in error["loc"] if part not in {NAMED, INLINE})}
            for error in exc.errors(include_url=False)
        ]
        raise from_pydantic(errors, given, known=_known(), examples=EXAMPLES) from exc


def is_bare(given: object) -> bool:
    """Whether a document is of the old form: one service, whole, without an envelope."""
    return isinstance(given, Mapping) and "service" in given and not {"apiVersion", "kind"} & given.keys()


def _bare_field(field: str) -> str:
    return "service" if field == "metadata.name" else field.removeprefix("spec.")


def _wrapped(bare: Mapping[Any, Any]) -> dict[str, Any]:
    spec = {name: value for name, value in bare.items() if name != "service"}
    return {"apiVersion": API_VERSION, "kind": "Service", "metadata": {"name": bare["service"]}, "spec": spec}


@functools.cache
def _known() -> frozenset[str]:
    return known_fields() | {"apiVersion", "from"}
