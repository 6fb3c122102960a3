"""Between the core's values and what a column can hold: JSON for plans, states and commands, bytes for histograms."""

import array
import dataclasses
import datetime as dt
import enum
import functools
import json
import sys
import typing
import zlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, assert_never

from controlplane.ports import PastRefusal, TypeStatus
from controlplane.rollout.answers import HTTP_BAD_KINDS
from controlplane.rollout.model import (
    Abort,
    Baking,
    Command,
    Pause,
    Paused,
    Plan,
    Preparing,
    Promote,
    Promoted,
    Resume,
    RolledBack,
    RollingBack,
    Shifting,
    State,
    Step,
    Undo,
)
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
)

Object = dict[str, Any]
"""A JSON object; its values become typed here and nowhere else."""


# -- plans and objectives ----------------------------------------------------------------------------------------------


def plan_to_json(plan: Plan) -> Object:
    """Write a plan down; spans are seconds."""
    return {
        "steps": [
            {
                "weight_bp": step.weight_bp,
                "hold_s": step.hold.total_seconds(),
                "pause": step.pause,
                "quality": step.quality,
            }
            for step in plan.steps
        ],
        "deadline_s": plan.deadline.total_seconds(),
        "prepare_timeout_s": plan.prepare_timeout.total_seconds(),
        **({"direct": True} if plan.direct else {}),
    }


def plan_from_json(data: Object) -> Plan:
    """Read a plan back."""
    return Plan(
        steps=tuple(
            Step(step["weight_bp"], dt.timedelta(seconds=step["hold_s"]), step["pause"], step.get("quality"))
            for step in data["steps"]
        ),
        deadline=dt.timedelta(seconds=data["deadline_s"]),
        prepare_timeout=dt.timedelta(seconds=data["prepare_timeout_s"]),
        direct=data.get("direct", False),
    )


_SLO_BLANK: Final[Object] = {
    "max_ratio": None,
    "threshold_ms": None,
    "quantile": None,
    "bad": [],
    "floor": None,
    "bad_query": None,
    "total_query": None,
    "value_query": None,
    "highest": None,
    "lowest": None,
    "interval_s": None,
    "delta_e": None,
    "hue_deg": None,
    "chroma": None,
    "ssim": None,
    "on_drift": None,
    "photos": None,
    "path": None,
    "features": None,
    "live": None,
}


def slo_to_json(slo: Slo) -> Object:
    """Write an objective down. The keys are also the columns of the table ``slo``."""
    terms = slo.terms
    return {
        **_SLO_BLANK,
        **_slo_facts(slo),
        "name": slo.name,
        "on_breach": terms.on_breach.value,
        "muted": terms.muted,
        "alpha": terms.alpha,
        "tolerance": terms.tolerance,
        "budget": terms.budget,
        "quiet_s": terms.quiet.total_seconds(),
    }


def _slo_facts(slo: Slo) -> Object:
    match slo:
        case ErrorRateSlo():
            return {"kind": "error_rate", "max_ratio": slo.max_ratio, "bad": list(slo.bad)}
        case LatencySlo():
            return {"kind": "latency", "threshold_ms": slo.threshold_ms, "quantile": slo.quantile}
        case ClientErrorSlo():
            return {"kind": "client_errors", "floor": slo.floor, "bad": list(slo.bad), "max_ratio": slo.max_ratio}
        case RatioQuerySlo():
            return {
                "kind": "query_ratio",
                "bad_query": slo.bad,
                "total_query": slo.total,
                "max_ratio": slo.max_ratio,
                "interval_s": slo.interval.total_seconds(),
            }
        case ValueQuerySlo():
            return {
                "kind": "query_value",
                "value_query": slo.query,
                "highest": slo.highest,
                "lowest": slo.lowest,
                "max_ratio": slo.max_ratio,
                "interval_s": slo.interval.total_seconds(),
            }
        case QualitySlo():
            return {
                "kind": "quality",
                "delta_e": slo.delta_e,
                "hue_deg": slo.hue_deg,
                "chroma": slo.chroma,
                "ssim": slo.ssim,
                "on_drift": slo.on_drift.value,
                "photos": slo.photos,
                "interval_s": slo.interval.total_seconds(),
                "path": slo.path,
                "features": slo.features,
                "live": slo.live,
            }


def slo_from_json(data: Mapping[Any, Any]) -> Slo:
    """Read an objective back. Facts that an earlier release did not know are what they were then: the defaults."""
    name, terms = data["name"], _terms_from(data)
    match data["kind"]:
        case "error_rate":
            return ErrorRateSlo(name, data["max_ratio"], tuple(data.get("bad") or HTTP_BAD_KINDS), terms)
        case "latency":
            return LatencySlo(name, data["threshold_ms"], data["quantile"], terms)
        case "client_errors":
            return ClientErrorSlo(name, data["floor"], tuple(data["bad"]), terms, data["max_ratio"])
        case "query_ratio":
            interval = dt.timedelta(seconds=data["interval_s"])
            return RatioQuerySlo(name, data["bad_query"], data["total_query"], data["max_ratio"], interval, terms)
        case "quality":
            return QualitySlo(
                name,
                data["delta_e"],
                data["hue_deg"],
                data["chroma"],
                data["ssim"],
                OnDrift(data["on_drift"]),
                data["photos"],
                dt.timedelta(seconds=data["interval_s"]),
                data["path"],
                terms,
                data["features"],
                data["live"],
            )
        case _:
            interval = dt.timedelta(seconds=data["interval_s"])
            return ValueQuerySlo(
                name, data["value_query"], data["highest"], data["lowest"], data["max_ratio"], interval, terms
            )


def _terms_from(data: Mapping[Any, Any]) -> Terms:
    if "on_breach" not in data:
        return Terms()
    return Terms(
        on_breach=OnBreach(data["on_breach"]),
        muted=data["muted"],
        alpha=data["alpha"],
        tolerance=data["tolerance"],
        budget=data["budget"],
        quiet=dt.timedelta(seconds=data["quiet_s"]),
    )


# -- states ------------------------------------------------------------------------------------------------------------


KINDS: Final[dict[str, type[State]]] = {
    "preparing": Preparing,
    "shifting": Shifting,
    "baking": Baking,
    "paused": Paused,
    "rolling_back": RollingBack,
    "promoted": Promoted,
    "rolled_back": RolledBack,
}
_KIND_OF: Final = {state: kind for kind, state in KINDS.items()}
_HINTS: Final = {state: typing.get_type_hints(state) for state in KINDS.values()}


def state_kind(state: State) -> str:
    """Return the word for a state in the column ``state_kind``."""
    return _KIND_OF[type(state)]


def state_to_json(state: State) -> Object:
    """Write down what is true in a state; its kind stands beside it."""
    return {field.name: _to_plain(getattr(state, field.name)) for field in dataclasses.fields(state)}


def state_from_json(kind: str, data: Object) -> State:
    """Read a state back. Facts that only a newer release knows are left out; missing ones take their default."""
    hints = _HINTS[KINDS[kind]]
    return KINDS[kind](**{name: _from_plain(hints[name], value) for name, value in data.items() if name in hints})


def _to_plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value.value if isinstance(value, enum.Enum) else value


def _from_plain(hint: type, value: Any) -> Any:
    if hint is dt.datetime:
        return _moment(value)
    return hint(value) if issubclass(hint, enum.Enum) else value


def ended_at(state: State) -> dt.datetime | None:
    """Return when a final state was reached; None for the others."""
    match state:
        case Promoted() | RolledBack():
            return state.at
        case Preparing() | Shifting() | Baking() | Paused() | RollingBack():
            return None


# -- commands ----------------------------------------------------------------------------------------------------------


def command_to_row(command: Command) -> Object:
    """Write a command down as columns of the table ``command``."""
    match command:
        case Pause():
            kind = "pause"
        case Resume():
            kind = "resume"
        case Promote():
            kind = "promote"
        case Abort() | Undo():
            kind = "abort"  # what the release before this one makes of an undo is the same
        case _:
            assert_never(command)
    full = isinstance(command, Promote) and command.full
    return {"kind": kind, "by": command.by, "why": command.why, "full": full, "undo": isinstance(command, Undo)}


def command_from_row(row: Mapping[Any, Any]) -> Command:
    """Read a command back."""
    by, why = row["by"], row["why"]
    match row["kind"]:
        case "pause":
            return Pause(by=by, why=why)
        case "resume":
            return Resume(by=by, why=why)
        case "promote":
            return Promote(by=by, why=why, full=row["full"])
        case _ if row["undo"]:
            return Undo(by=by, why=why)
        case _:
            return Abort(by=by, why=why)


# -- fleet and telemetry -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4_096)
def types_to_text(types: tuple[tuple[str, TypeStatus], ...]) -> str:
    """Write down what an Envoy said about each resource type. Envoys in step have said the same, so it is kept."""
    return json.dumps(_types_to_json(types))


@functools.lru_cache(maxsize=4_096)
def types_from_text(text: str) -> Mapping[str, TypeStatus]:
    """Read it back; the same text gives the same object."""
    return MappingProxyType(_types_from_json(json.loads(text)))


def _types_to_json(types: Iterable[tuple[str, TypeStatus]]) -> Object:
    return {
        name: {
            "sent": status.sent,
            "acked": status.acked,
            "acked_at": None if status.acked_at is None else status.acked_at.isoformat(),
            "nacked": status.nacked,
            "words": status.words,
            "nacked_at": None if status.nacked_at is None else status.nacked_at.isoformat(),
            "last_refusal": None if status.last_refusal is None else _refusal_to_json(status.last_refusal),
        }
        for name, status in types
    }


def _types_from_json(data: Object) -> dict[str, TypeStatus]:
    return {
        name: TypeStatus(
            sent=status["sent"],
            acked=status["acked"],
            acked_at=None if status["acked_at"] is None else _moment(status["acked_at"]),
            nacked=status["nacked"],
            words=status["words"],
            # Absent where an earlier release wrote the row.
            nacked_at=_moment(status["nacked_at"]) if status.get("nacked_at") else None,
            last_refusal=_refusal_from_json(status["last_refusal"]) if status.get("last_refusal") else None,
        )
        for name, status in data.items()
    }


def _refusal_to_json(refusal: PastRefusal) -> Object:
    return {"version": refusal.version, "words": refusal.words, "at": refusal.at.isoformat()}


def _refusal_from_json(data: Object) -> PastRefusal:
    return PastRefusal(data["version"], data["words"], _moment(data["at"]))


def histogram_to_bytes(counts: Sequence[int]) -> bytes:
    """Pack the buckets of a histogram: 32-bit little-endian counts, deflated. Mostly zeros, so some 100 bytes."""
    packed = array.array("I", counts)
    if sys.byteorder == "big":
        packed.byteswap()
    # The smallest window: setting up the default one takes longer than packing such a row.
    deflate = zlib.compressobj(level=1, wbits=_WINDOW, memLevel=3)
    return deflate.compress(packed.tobytes()) + deflate.flush()


def histogram_from_bytes(data: bytes) -> tuple[int, ...]:
    """Unpack the buckets of a histogram."""
    packed = array.array("I", zlib.decompress(data, wbits=_WINDOW))
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)


def codes_from_json(data: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Return requests by status; PostgreSQL keeps them in an order of its own."""
    return tuple(sorted(data.items()))


_WINDOW: Final = -10  # 1 KiB, without a header


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
