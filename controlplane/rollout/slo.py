"""Objectives: what a version must keep, how much doubt is allowed, and what a breach leads to.

An objective is a share of bad things among things that happened: failed requests, slow ones, requests that the
service calls the client's mistake, or whatever a Prometheus query counts. One kind is not: `QualitySlo` compares what
both versions make of the same photos, before and while users do.
"""

import dataclasses
import datetime as dt
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from controlplane.errors import InvalidInputError
from controlplane.rollout.answers import (
    GRPC_BAD_KINDS,
    GRPC_CLIENT_KINDS,
    HTTP_BAD_KINDS,
    HTTP_CLIENT_KINDS,
    check_kinds,
)

ALPHA: Final = 0.01
"""Chance that a healthy candidate is ever rolled back, over the whole rollout and all objectives (judge.md 5)."""

MAX_SLOS: Final = 8
MAX_QUERY_CHARS: Final = 2_000
MIN_PHOTOS: Final = 8
"""Fewer tell nothing for sure."""

DEFAULT_CLIENT_ERRORS: Final = "client errors"
"""The name of the objective that every service has, unless it declares one of the kind itself."""

_PLACEHOLDER: Final = re.compile(r"\$(service|version|cluster)\b")


class OnBreach(enum.Enum):
    """What a breach that is the candidate's own leads to."""

    ROLLBACK = "rollback"
    """All traffic goes back at once."""
    PAUSE = "pause"
    """The rollout stands still, with the weight it has, and asks a person; once per rollout."""


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What follows from an objective, and how sure the judge must be.

    *muted* objectives are judged and shown, and decide nothing. *alpha* is the objective's own part of `ALPHA`; by
    default what is left of it is shared by alarm. *tolerance* is how many times worse than the old version the
    candidate may be: in odds of a bad request, for latency in time; None is the kind's default. *budget* is how many
    bad requests beyond the objective the next step may cost before its own evidence is in. *quiet* is how long the
    objective must have been kept before every step up (at most the step's own hold).
    """

    on_breach: OnBreach = OnBreach.ROLLBACK
    muted: bool = False
    alpha: float | None = None
    tolerance: float | None = None
    budget: float = 10.0
    quiet: dt.timedelta = dt.timedelta(seconds=30)

    def check(self, path: str) -> None:
        """Raise InvalidInputError for a value that makes no sense; *path* names the objective."""
        if self.alpha is not None and not 1e-6 <= self.alpha <= 0.2:
            often = "would roll back too many healthy versions" if self.alpha > 0.2 else "would take too long to act"
            raise InvalidInputError(
                f"{path}.alpha",
                f"{self.alpha * 100:g} % {often}",
                "use 0.0001 % to 20 %; 1 % is usual for all together",
            )
        if self.tolerance is not None and not 1 <= self.tolerance <= 100:
            means = (
                "would roll back a version that is as good as the old one" if self.tolerance < 1 else "forbids nothing"
            )
            raise InvalidInputError(f"{path}.tolerance", f"{self.tolerance:g} {means}", "use 1 to 100, for example 2")
        if not 0 <= self.budget <= 1_000_000:
            raise InvalidInputError(
                f"{path}.budget",
                f"{self.budget:g} bad requests are out of range",
                "use 0 (prove every step beforehand) to 1000000; 10 is usual",
            )
        if not dt.timedelta(0) <= self.quiet <= dt.timedelta(days=1):
            raise InvalidInputError(f"{path}.quiet", f"{self.quiet} is out of range", "use 0 s to 1 day")


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorRateSlo:
    """At most *max_ratio* of the requests fail (a fraction of 1); *bad* says which answers are failures.

    Each of *bad* is a class (``5xx``), a status (``429``) or a gRPC status (``grpc-unavailable``).
    """

    name: str
    max_ratio: float
    bad: tuple[str, ...] = HTTP_BAD_KINDS
    terms: Terms = Terms()

    def __post_init__(self) -> None:
        path = f"slos.{self.name}"
        _check_share(f"{path}.max", self.max_ratio)
        _check_bad(f"{path}.bad", self.bad)
        self.terms.check(path)


@dataclasses.dataclass(frozen=True, slots=True)
class LatencySlo:
    """At least *quantile* of the requests (a fraction of 1) are answered within *threshold_ms* milliseconds."""

    name: str
    threshold_ms: float
    quantile: float
    terms: Terms = Terms()

    def __post_init__(self) -> None:
        path = f"slos.{self.name}"
        if not 1 <= self.threshold_ms <= 300_000:
            raise InvalidInputError(
                f"{path}.threshold", f"{self.threshold_ms:g} ms is out of range", "use 1 ms to 300 s"
            )
        if not 0.5 <= self.quantile < 1:
            raise InvalidInputError(
                f"{path}.quantile", f"{self.quantile * 100:g} % is out of range", "use 50 % to below 100 %"
            )
        self.terms.check(path)
        if self.terms.tolerance is not None and self.terms.tolerance > 10:
            raise InvalidInputError(
                f"{path}.tolerance", f"{self.terms.tolerance:g} forbids nothing", "use 1 to 10, for example 1.1"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class ClientErrorSlo:
    """The share of answers that blame the client (*bad*) is not far above the old version's in the same seconds.

    Clients that send nonsense to both versions are nobody's fault; a version that suddenly finds nonsense in what the
    old one takes is broken. Below *floor* (a fraction of 1) it does not matter. What an `ErrorRateSlo` calls a failure
    is not counted again here. With *max_ratio* the share has a bound of its own as well: at 100 % there is no old
    version to compare with.
    """

    name: str = DEFAULT_CLIENT_ERRORS
    floor: float = 0.01
    bad: tuple[str, ...] = HTTP_CLIENT_KINDS
    terms: Terms = Terms()
    max_ratio: float | None = None

    def __post_init__(self) -> None:
        path = f"slos.{self.name}"
        _check_share(f"{path}.floor", self.floor)
        if self.max_ratio is not None:
            _check_share(f"{path}.max", self.max_ratio)
        _check_bad(f"{path}.bad", self.bad)
        self.terms.check(path)


@dataclasses.dataclass(frozen=True, slots=True)
class RatioQuerySlo:
    """At most *max_ratio* of what *total* counts is *bad*: two Prometheus queries, each for a counter that grows.

    They are asked every *interval*, once per version: ``$version``, ``$cluster`` and ``$service`` stand for its names.
    """

    name: str
    bad: str
    total: str
    max_ratio: float
    interval: dt.timedelta = dt.timedelta(seconds=5)
    terms: Terms = Terms()

    def __post_init__(self) -> None:
        path = f"slos.{self.name}"
        _check_share(f"{path}.max", self.max_ratio)
        for field, query in (("bad", self.bad), ("total", self.total)):
            _check_query(f"{path}.{field}", query)
        _check_interval(path, self.interval)
        self.terms.check(path)


@dataclasses.dataclass(frozen=True, slots=True)
class ValueQuerySlo:
    """What *query* gives stays from *lowest* to *highest*, in all but *max_ratio* of the times it is asked.

    It is a Prometheus query for one number, asked every *interval*, once per version, as for a `RatioQuerySlo`.
    """

    name: str
    query: str
    highest: float | None = None
    lowest: float | None = None
    max_ratio: float = 0.1
    interval: dt.timedelta = dt.timedelta(seconds=5)
    terms: Terms = Terms()

    def __post_init__(self) -> None:
        path = f"slos.{self.name}"
        if self.highest is None and self.lowest is None:
            raise InvalidInputError(path, "has no bound", "give it max: NUMBER or min: NUMBER, or both")
        if self.highest is not None and self.lowest is not None and self.lowest > self.highest:
            raise InvalidInputError(f"{path}.min", f"{self.lowest:g} is above max", f"use at most {self.highest:g}")
        _check_query(f"{path}.query", self.query)
        _check_share(f"{path}.max_share", self.max_ratio)
        _check_interval(path, self.interval)
        self.terms.check(path)

    def is_bad(self, value: float) -> bool:
        """Whether *value* is out of bounds; NaN is."""
        above = self.highest is not None and not value <= self.highest
        return above or (self.lowest is not None and not value >= self.lowest)


class OnDrift(enum.Enum):
    """What follows when the pictures of a version without a flaw differ by more than the owner allows."""

    ALLOW = "allow"
    """Nothing: it is shown."""
    ASK = "ask"
    """The rollout stands still and asks a person; once per rollout."""
    BLOCK = "block"
    """It is a breach, like a flaw."""


@dataclasses.dataclass(frozen=True, slots=True)
class QualitySlo:
    """Both versions make pictures of the same grey photos: none of the candidate's is broken, and they are alike.

    *delta_e* (mean CIEDE2000), *hue_deg* (mean turn of hues), *chroma* (change of the amount of colour, as a share),
    *ssim* (likeness of the colour planes) and *features* (mean feature distance) bound the difference; beyond them
    *on_drift* says what follows. A flaw, which no style excuses, is always a breach. *photos* are sent to each version
    (0: all there are), to *path*, before a step that demands it, and every *interval* while the candidate carries
    traffic. *live* has both versions' answers to the same mirrored requests compared as well, as far as their workers
    keep such. Of *terms* only what a breach leads to, and whether it is muted, mean anything here.
    """

    name: str
    delta_e: float = 3.0
    hue_deg: float = 10.0
    chroma: float = 0.25
    ssim: float = 0.9
    on_drift: OnDrift = OnDrift.ALLOW
    photos: int = 0
    interval: dt.timedelta = dt.timedelta(minutes=10)
    path: str = "/repair"
    terms: Terms = Terms()
    features: float = 0.15
    live: bool = False

    def __post_init__(self) -> None:
        path = f"slos.{self.name}"
        for field, value, least, most in (
            ("delta_e", self.delta_e, 0, 100),
            ("hue", self.hue_deg, 0, 180),
            ("chroma", self.chroma, 0, 10),
            ("ssim", self.ssim, 0, 1),
            ("feature_distance", self.features, 0, 10),
        ):
            if not least <= value <= most:
                raise InvalidInputError(f"{path}.{field}", f"{value:g} is out of range", f"use {least} to {most}")
        if self.photos != 0 and not MIN_PHOTOS <= self.photos <= 1_000:
            raise InvalidInputError(
                f"{path}.photos", f"{self.photos} are out of range", f"use {MIN_PHOTOS} to 1000, or 0 for all"
            )
        if not dt.timedelta(minutes=1) <= self.interval <= dt.timedelta(days=1):
            raise InvalidInputError(f"{path}.interval", f"{self.interval} is out of range", "use 1 min to 1 day")
        if not self.path.startswith("/") or not self.path.isprintable():
            raise InvalidInputError(f"{path}.path", f"{self.path!r} is no path", "start it with /")


def default_bad(*, grpc: bool) -> tuple[str, ...]:
    """Return what fails by default, of a service that speaks gRPC or one that does not."""
    return GRPC_BAD_KINDS if grpc else HTTP_BAD_KINDS


def client_errors(*, grpc: bool) -> tuple[str, ...]:
    """Return what blames the client by default."""
    return GRPC_CLIENT_KINDS if grpc else HTTP_CLIENT_KINDS


QuerySlo: TypeAlias = RatioQuerySlo | ValueQuerySlo
JudgedSlo: TypeAlias = ErrorRateSlo | LatencySlo | ClientErrorSlo | RatioQuerySlo | ValueQuerySlo
"""What the judge of every second weighs."""
Slo: TypeAlias = JudgedSlo | QualitySlo


def queries(slo: QuerySlo) -> tuple[str, ...]:
    """Return the queries of an objective, the total last."""
    return (slo.bad, slo.total) if isinstance(slo, RatioQuerySlo) else (slo.query,)


def fill_in(query: str, names: Mapping[str, str]) -> str:
    """Put a version's *names* (service, version, cluster) in the place of a query's placeholders."""
    return _PLACEHOLDER.sub(lambda found: names[found[1]], query)


def judged(slos: Iterable[Slo]) -> tuple[JudgedSlo, ...]:
    """Return the objectives that the judge of every second weighs."""
    return tuple(slo for slo in slos if not isinstance(slo, QualitySlo))


def quality_slo(slos: Iterable[Slo]) -> QualitySlo | None:
    """Return the objective about pictures, of which there is at most one."""
    return next((slo for slo in slos if isinstance(slo, QualitySlo)), None)


def with_defaults(slos: Sequence[Slo]) -> tuple[Slo, ...]:
    """Return what a rollout is held to: the declared objectives, and that client errors do not grow."""
    if any(isinstance(slo, ClientErrorSlo) for slo in slos):
        return tuple(slos)
    return (*slos, ClientErrorSlo(bad=client_errors(grpc=speaks_grpc(slos))))


def speaks_grpc(slos: Sequence[Slo]) -> bool:
    """Whether these are a gRPC service's: some failure is one of gRPC's statuses."""
    return any(isinstance(slo, ErrorRateSlo) and any(kind.startswith("grpc-") for kind in slo.bad) for slo in slos)


def check_slos(slos: Sequence[Slo]) -> None:
    """Refuse objectives that cannot be judged together.

    Raises:
        InvalidInputError: There are too many, nothing says whether requests are served well, or nothing is left of
            the allowed doubt for those that do not name their own.
    """
    if len(slos) > MAX_SLOS:
        raise InvalidInputError("slos", f"has {len(slos)} objectives", f"use at most {MAX_SLOS}")
    if not any(isinstance(slo, ErrorRateSlo | LatencySlo) for slo in slos):
        raise InvalidInputError(
            "slos", "says neither how many requests may fail nor how long they may take", "add kind: error_rate"
        )
    for kind, word in ((ClientErrorSlo, "client_errors"), (QualitySlo, "quality")):
        if len([slo for slo in slos if isinstance(slo, kind)]) > 1:
            raise InvalidInputError("slos", f"has two objectives of kind {word}", "leave one of them")
    given = [slo.terms.alpha for slo in slos if slo.terms.alpha is not None]
    without = [slo.name for slo in judged(with_defaults(slos)) if slo.terms.alpha is None]
    if without and sum(given) > ALPHA * 0.9:
        raise InvalidInputError(
            "slos",
            f"the alphas sum to {sum(given) * 100:g} %, which leaves too little of {ALPHA * 100:g} % for {without[0]}",
            "lower them, or give every objective an alpha (kind: client_errors too)",
        )


def _check_share(field: str, value: float) -> None:
    if not 0 < value < 0.5:
        raise InvalidInputError(field, f"{value * 100:g} % is out of range", "use more than 0 % and less than 50 %")


def _check_bad(field: str, kinds: Sequence[str]) -> None:
    if not kinds:
        raise InvalidInputError(field, "is empty", "name at least one, for example 5xx")
    for kind in kinds:
        try:
            check_kinds([kind])
        except ValueError as exc:
            raise InvalidInputError(
                field, f"{kind!r} is not a kind of answer", "use 5xx, 4xx, a status such as 429, or grpc-unavailable"
            ) from exc


def _check_query(field: str, query: str) -> None:
    if not query.strip() or len(query) > MAX_QUERY_CHARS:
        raise InvalidInputError(
            field, "is empty or too long", f"write a PromQL query of up to {MAX_QUERY_CHARS} characters"
        )
    if not any(found[1] in {"version", "cluster"} for found in _PLACEHOLDER.finditer(query)):
        raise InvalidInputError(
            field,
            "asks the same for every version, so it cannot tell them apart",
            'select by version="$version" or cluster="$cluster"',
        )


def _check_interval(path: str, interval: dt.timedelta) -> None:
    if not dt.timedelta(seconds=1) <= interval <= dt.timedelta(minutes=5):
        raise InvalidInputError(f"{path}.interval", f"{interval} is out of range", "use 1 s to 5 min")
