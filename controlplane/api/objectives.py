"""Between the documents of objectives and the core's values, both ways."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from controlplane.api import units
from controlplane.api.problems import Problems, from_pydantic
from controlplane.api.requests import ReplayRequest
from controlplane.api.schemas import (
    EXAMPLES,
    ClientErrorsDocument,
    ErrorRateDocument,
    LatencyDocument,
    QualityDocument,
    QueryRatioDocument,
    QueryValueDocument,
    SloDocument,
    known_fields,
)
from controlplane.errors import InvalidInputError
from controlplane.rollout.slo import (
    ClientErrorSlo,
    ErrorRateSlo,
    LatencySlo,
    OnBreach,
    OnDrift,
    QualitySlo,
    RatioQuerySlo,
    Slo,
    Terms,
    ValueQuerySlo,
    check_slos,
    client_errors,
    default_bad,
)
from controlplane.traffic.model import check_names


def slo_from(document: SloDocument, *, grpc: bool = False) -> Slo:
    """Build an objective; of a service that speaks gRPC (*grpc*), failures are by default its statuses.

    Raises:
        InvalidInputError: A value is out of range.
    """
    terms = _terms_from(document)
    match document:
        case ErrorRateDocument(name=name, max=most, bad=bad):
            return ErrorRateSlo(name, most, tuple(default_bad(grpc=grpc) if bad is None else bad), terms)
        case LatencyDocument(name=name, threshold=threshold, quantile=quantile):
            return LatencySlo(name, threshold, quantile, terms)
        case ClientErrorsDocument(name=name, floor=floor, bad=bad):
            return ClientErrorSlo(
                name, floor, tuple(client_errors(grpc=grpc) if bad is None else bad), terms, document.max
            )
        case QueryRatioDocument(name=name, bad=bad, total=total, max=most, interval=interval):
            return RatioQuerySlo(name, bad, total, most, interval, terms)
        case QueryValueDocument(name=name, query=query):
            return ValueQuerySlo(name, query, document.max, document.min, document.max_share, document.interval, terms)
        case QualityDocument():
            return QualitySlo(
                document.name,
                document.delta_e,
                document.hue,
                document.chroma,
                document.ssim,
                OnDrift(document.on_drift),
                document.photos,
                document.interval,
                document.path,
                terms,
                document.feature_distance,
                document.live,
            )


def _terms_from(document: SloDocument) -> Terms:
    on_breach, muted = OnBreach(document.on_breach), document.muted
    if isinstance(document, QualityDocument):
        return Terms(on_breach, muted)
    return Terms(on_breach, muted, document.alpha, document.tolerance, document.budget, document.quiet)


def slo_of(slo: Slo) -> SloDocument:
    """Write an objective out."""
    terms = slo.terms
    always: dict[str, Any] = {"name": slo.name, "on_breach": terms.on_breach.value, "muted": terms.muted}
    common = {
        **always,
        "alpha": terms.alpha,
        "tolerance": terms.tolerance,
        "budget": terms.budget,
        "quiet": terms.quiet,
    }
    match slo:
        case QualitySlo():
            return QualityDocument.model_construct(
                **always,
                kind="quality",
                delta_e=slo.delta_e,
                hue=slo.hue_deg,
                chroma=slo.chroma,
                ssim=slo.ssim,
                on_drift=slo.on_drift.value,
                photos=slo.photos,
                interval=slo.interval,
                path=slo.path,
                feature_distance=slo.features,
                live=slo.live,
            )
        case ErrorRateSlo():
            return ErrorRateDocument.model_construct(**common, kind="error_rate", max=slo.max_ratio, bad=list(slo.bad))
        case LatencySlo():
            return LatencyDocument.model_construct(
                **common, kind="latency", threshold=slo.threshold_ms, quantile=slo.quantile
            )
        case ClientErrorSlo():
            return ClientErrorsDocument.model_construct(
                **common, kind="client_errors", max=slo.max_ratio, floor=slo.floor, bad=list(slo.bad)
            )
        case RatioQuerySlo():
            return QueryRatioDocument.model_construct(
                **common, kind="query_ratio", bad=slo.bad, total=slo.total, max=slo.max_ratio, interval=slo.interval
            )
        case ValueQuerySlo():
            return QueryValueDocument.model_construct(
                **common,
                kind="query_value",
                query=slo.query,
                max=slo.highest,
                min=slo.lowest,
                max_share=slo.max_ratio,
                interval=slo.interval,
            )


def describe_slo(slo: Slo) -> str:
    """Say an objective in a few words."""
    return f"{_bound_of(slo)} (muted)" if slo.terms.muted else _bound_of(slo)


def _bound_of(slo: Slo) -> str:
    match slo:
        case ErrorRateSlo():
            return f"at most {units.format_ratio(slo.max_ratio)} errors"
        case LatencySlo():
            return f"{units.format_ratio(slo.quantile)} within {units.format_ms(slo.threshold_ms)}"
        case ClientErrorSlo():
            most = f", at most {units.format_ratio(slo.max_ratio)}" if slo.max_ratio is not None else ""
            return f"no more client errors than before, above {units.format_ratio(slo.floor)}{most}"
        case RatioQuerySlo():
            return f"{slo.name} at most {units.format_ratio(slo.max_ratio)}"
        case ValueQuerySlo(highest=highest, lowest=lowest):
            bounds = [
                f"at {end} {bound:g}" for end, bound in (("least", lowest), ("most", highest)) if bound is not None
            ]
            return f"{slo.name} {' and '.join(bounds)}"
        case QualitySlo():
            bound = (
                f"within {slo.delta_e:g} CIEDE2000 of the old version's" if slo.on_drift is not OnDrift.ALLOW else ""
            )
            return f"no broken picture{f', {bound}' if bound else ''}"


# -- objectives by themselves, apart from a service -------------------------------------------------------------------


def read_objectives(given: object) -> list[SloDocument]:
    """Validate the shape of a list of objectives, or of those under ``slos`` in a mapping, such as a service's.

    Raises:
        InvalidInputError: It is neither; an `InvalidDocumentError` lists everything that is wrong in it.
    """
    if isinstance(given, Mapping):
        if "slos" not in given:
            raise InvalidInputError("slos", "is missing", f"add slos: {EXAMPLES['slos']}")
        given = given["slos"]
    if not isinstance(given, list):
        raise InvalidInputError("slos", "is not a list", "start each item with - ")
    whole = {"slos": given}
    try:
        return ReplayRequest.model_validate(whole).slos or []
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        raise from_pydantic(errors, whole, known=known_fields(), examples=EXAMPLES) from exc


def objectives_from(documents: Sequence[SloDocument], *, grpc: bool = False) -> tuple[Slo, ...]:
    """Build objectives; *grpc* as for `slo_from`.

    Raises:
        InvalidInputError: There is none, two have one name, or values are out of range.
    """
    problems = Problems()
    found = [problems.attempt(functools.partial(slo_from, document, grpc=grpc)) for document in documents]
    problems.raise_any()
    check_names("slos", [document.name for document in documents])
    slos = tuple(slo for slo in found if slo)
    check_slos(slos)
    return slos
