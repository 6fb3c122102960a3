"""Why a rollout stands where it stands, by objective: what was measured, what is wanted, what is missing. Pure.

The judge's own sentence says what decided the last tick; this says how far each objective is.
"""

import dataclasses
from collections.abc import Iterable

from controlplane.rollout.explain import odds_text, percent, things_of, what_of
from controlplane.rollout.policy import Policy, Sampled
from controlplane.rollout.processes import BUILT_IN, ERROR, LATENCY
from controlplane.rollout.verdict import ObjectiveEvidence
from controlplane.rollout.windows import snap_threshold


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How far one objective is.

    *odds_limit* is the evidence that undoes the rollout: one in so many healthy ones would show as much. *wait_s* is
    how long the requests that are still needed will take at the present rate; None where nobody can say.
    """

    evidence: ObjectiveEvidence
    odds_limit: float
    wait_s: float | None
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Versions:
    """What the two versions are called."""

    baseline: str
    candidate: str


def standings(
    objectives: Iterable[ObjectiveEvidence], policy: Policy, versions: Versions, *, rate: float
) -> tuple[Standing, ...]:
    """Explain each of *objectives*, in their order.

    Args:
        objectives: As of the last judged tick.
        policy: What they are held to.
        versions: For the words.
        rate: Requests a second that the candidate answers now.
    """
    found = []
    for each in objectives:
        place = place_of(each.name, policy)
        pace = _pace(place, policy, rate)
        words = _words(each, policy, versions, limit=policy.thresholds[place], rate=pace)
        found.append(Standing(each, policy.thresholds[place], wait_s(each, rate=pace), words))
    return tuple(found)


def place_of(name: str, policy: Policy) -> int:
    """Return which objective of *policy* the evidence called *name* speaks of."""
    if name.startswith(("error_", "latency_")):
        return ERROR if name.startswith("error_") else LATENCY
    names = [share.name for share in policy.shares]
    own = name.rpartition(" ")[0]
    return BUILT_IN + names.index(own) if own in names else ERROR


def _pace(place: int, policy: Policy, requests: float) -> float:
    """Return how many of the things that an objective judges come in a second; 0 where nobody can say."""
    measure = policy.shares[place - BUILT_IN].measure if place >= BUILT_IN else None
    if isinstance(measure, Sampled):
        return 1 / measure.every_s if measure.every_s else 0.0
    return requests


def wait_s(objective: ObjectiveEvidence, *, rate: float) -> float | None:
    """Return the seconds until the requests that an objective still needs have come; None where nobody can say."""
    if objective.still_needed is None:
        return None
    if objective.still_needed == 0:
        return 0.0
    return objective.still_needed / rate if rate > 0 else None


def span_text(seconds: float) -> str:
    """Write a span for people: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3_600 else f"{seconds / 3_600:.1f} h"


def _words(each: ObjectiveEvidence, policy: Policy, versions: Versions, *, limit: float, rate: float) -> str:
    against = f"evidence of a breach {odds_text(each.odds)} of 1:{limit:.0f}"
    missing = {"muted": "muted: it decides nothing", "asked": "a person was asked, and decides"}.get(each.decides)
    things = things_of(place_of(each.name, policy), policy)
    return f"{_measured(each, policy, versions)}; {against}; {missing or _missing(each, things, rate=rate)}"


def _measured(each: ObjectiveEvidence, policy: Policy, versions: Versions) -> str:
    if each.candidate is None:
        asked = things_of(place_of(each.name, policy), policy) != "requests"
        unknown = (
            f"nothing is known of {versions.candidate}" if asked else f"no request to {versions.candidate} has ended"
        )
        return f"{_what(each, policy)}: {unknown} yet"
    shares = f"{versions.candidate} {percent(each.candidate)}"
    if each.baseline is not None:
        shares += f", {versions.baseline} {percent(each.baseline)} in the same seconds"
    match each.name:
        case "latency_rel":
            bound = f"at most {each.bound:g} times {versions.baseline}'s latency"
        case name if name.endswith("rel"):
            bound = f"at most {each.bound:g} times {versions.baseline}'s odds"
        case _:
            bound = f"at most {percent(each.bound)}"
    return f"{_what(each, policy)}: {shares}, {bound}"


def _what(each: ObjectiveEvidence, policy: Policy) -> str:
    match each.name:
        case "error_abs":
            return "failed requests"
        case "error_rel":
            return "failed requests against the old version"
        case "latency_abs":
            return f"requests slower than {snap_threshold(policy.latency_threshold_ms or 1):g} ms"
        case "latency_rel":
            return "latency against the old version"
        case name:
            what = what_of(place_of(name, policy), policy)
            return f"{what} against the old version" if name.endswith("rel") else what


def _missing(each: ObjectiveEvidence, things: str, *, rate: float) -> str:
    seconds = wait_s(each, rate=rate)
    match each.still_needed:
        case None:
            return "no number of requests will do at this share" if things == "requests" else "this share will not do"
        case 0:
            return "nothing more is needed for the next step"
        case needed if seconds is None:
            unknown = ", and none come now" if things == "requests" else ""
            return f"needs about {needed} more {things}{unknown}"
        case needed:
            return f"needs about {needed} more {things}, {span_text(seconds)} at {rate:.2g} a second"
