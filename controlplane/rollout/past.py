"""What a service's past rollouts say: which version failed, and which way an undo goes. Pure."""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from controlplane.errors import ConflictError
from controlplane.rollout.model import FULL_WEIGHT_BP, Plan, Promoted, RollbackCause, RolledBack, State, Step

REMEMBERED: Final = 200
"""How many of a service's rollouts are looked at, the newest: years of them, for most."""

_FAILURES: Final = (RollbackCause.SLO_BREACH, RollbackCause.UNDONE)
"""Endings that speak against the version. An abort, workers that never came and a newer version do not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """What is left of one rollout. *direct*: it was an undo."""

    id: str
    baseline: str
    candidate: str
    state: State
    direct: bool
    by: str = ""
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """How a version failed: in which rollout, when, and the evidence in words."""

    rollout: str
    words: str
    at: dt.datetime


def failure_of(past: Sequence[Past], version: str) -> Failure | None:
    """Return how *version* failed when it was tried last; None where it did not. *past* is the newest first."""
    for each in past:
        match each.state:
            case Promoted(at=at) if each.direct and each.baseline == version:
                why = f": {each.why}" if each.why else ""
                return Failure(each.id, f"{version} was taken back by {each.by} in {each.id}{why}", at)
            case Promoted() if each.candidate == version:
                return None
            case RolledBack(at=at, cause=cause, words=words) if each.candidate == version and cause in _FAILURES:
                how = "was undone" if cause is RollbackCause.UNDONE else "was rolled back"
                return Failure(each.id, f"{version} {how} in {each.id}: {words}", at)
            case _:
                pass
    return None


def way_back(service: str, past: Sequence[Past], traffic: Mapping[str, int], to: str) -> tuple[str, str]:
    """Return whose traffic an undo moves ("": whoever has some) and to whom, when no rollout is active.

    Args:
        service: Its name, for what is refused.
        past: Its rollouts, the newest first.
        traffic: What each version has now, in basis points.
        to: The version that is to get it; "" for the one before the last promotion.

    Raises:
        ConflictError: There is nothing to undo; the text says what to do instead.
    """
    newest = next((each for each in past if isinstance(each.state, Promoted)), None)
    if to:
        served = {each.baseline for each in past} | {each.candidate for each in past if _is_promoted(each)}
        if to not in served:
            raise ConflictError(f"{to!r} has never had the traffic of {service!r}; start a rollout to it instead")
        if traffic.get(to, 0) == FULL_WEIGHT_BP:
            raise ConflictError(f"nothing to undo: {to!r} has all traffic of {service!r}")
        return (newest.candidate if newest and newest.candidate != to and traffic.get(newest.candidate) else ""), to
    if newest is None:
        raise ConflictError(f"nothing to undo: no rollout of {service!r} was promoted yet")
    if newest.direct:
        raise ConflictError(
            f"the last move of {service!r}, {newest.id}, was an undo itself; name the version that is to get the"
            " traffic (--to)"
        )
    if not traffic.get(newest.candidate):
        raise ConflictError(
            f"nothing to undo: {newest.candidate!r}, which {newest.id} promoted, has no traffic of {service!r} any more"
        )
    return newest.candidate, newest.baseline


def plan_back(plan: Plan) -> Plan:
    """Return the plan of an undo where *plan* is the service's own: all at once, without the judge and pictures."""
    step = Step(FULL_WEIGHT_BP, hold=dt.timedelta(0), quality=False)
    return Plan((step,), deadline=plan.deadline, prepare_timeout=plan.prepare_timeout, direct=True)


def _is_promoted(past: Past) -> bool:
    return isinstance(past.state, Promoted)
