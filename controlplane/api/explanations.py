"""Why a rollout stands where it stands: rows, evidence and telemetry put together for a person who waits."""

import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter

from controlplane.api import units
from controlplane.api.access import Reader, UseParts
from controlplane.api.answers import ExplanationView, StandingView, WaitingView
from controlplane.api.live import load_status
from controlplane.api.quality import newest_comparisons
from controlplane.api.routing import ApiRoute
from controlplane.api.services import Name
from controlplane.api.waiting import waiting_views
from controlplane.controller.fleet import FleetLevel, unready_members
from controlplane.controller.groups import carriers, level_of, load_newest_groups, nodes_of
from controlplane.controller.holds import load_holds
from controlplane.controller.line import LOOK_BACK, excused, frozen_words
from controlplane.errors import NotFoundError
from controlplane.ports import Agenda, Rollout, ServiceRecord, Store
from controlplane.rollout.lifecycle import describe, state_name
from controlplane.rollout.model import (
    Baking,
    Paused,
    Preparing,
    Promoted,
    RolledBack,
    RollingBack,
    Shifting,
)
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.standing import Standing, Versions, span_text, standings
from controlplane.rollout.verdict import ObjectiveEvidence

RATE_OVER: Final = dt.timedelta(seconds=60)

router = APIRouter(prefix="/v1", tags=["rollouts"], route_class=ApiRoute)


@router.get("/services/{name}/explain")
async def explain_rollout(name: Name, parts: UseParts, _: Reader) -> ExplanationView:
    """Explain why the service's newest rollout stands where it stands, and what it waits for."""
    store = parts.store
    record = await store.load_service(name)
    rollout = await store.load_latest(name)
    now = parts.clock.now()
    agenda = await store.load_agenda(since=now - LOOK_BACK)
    waiting = waiting_views(agenda, rollout, name, now=now)
    if rollout is None:
        if not waiting:
            raise NotFoundError("rollout of", name)
        return _not_begun(waiting)
    rate = await _rate(store, record, rollout, now)
    found = _standings(rollout, rate)
    return ExplanationView(
        service=name,
        rollout=rollout.id,
        state=state_name(rollout.state),
        phase=describe(rollout.state),
        summary=await _summary(store, record, rollout, agenda, now),
        objectives=[_standing_view(each) for each in found],
        rate=rate,
        next=_next(excused(rollout, agenda.freezes, now=now), found, now),
        quality=await newest_comparisons(store, rollout),
        advice=(await load_status(store, name, events=0, now=now)).advice,
        waiting=waiting,
    )


def _not_begun(waiting: Sequence[WaitingView]) -> ExplanationView:
    """Explain a service that has had no rollout, but whose first one waits."""
    first = waiting[0]
    return ExplanationView(
        service=first.service,
        rollout=first.id,
        state=first.state,
        phase=first.state,
        summary=first.words,
        objectives=[],
        rate=0.0,
        next=f"then the rollout to {first.candidate} begins",
        waiting=list(waiting),
    )


def _standings(rollout: Rollout, rate: float) -> tuple[Standing, ...]:
    judged = json.loads(rollout.evidence) if rollout.evidence else {}
    objectives = [ObjectiveEvidence(**each) for each in judged.get("objectives", ())]
    versions = Versions(rollout.baseline, rollout.candidate)
    return standings(objectives, policy_of(rollout.slos), versions, rate=rate)


def _standing_view(standing: Standing) -> StandingView:
    return StandingView(
        **dataclasses.asdict(standing.evidence),
        words=standing.words,
        odds_limit=standing.odds_limit,
        wait_s=standing.wait_s,
    )


async def _rate(store: Store, record: ServiceRecord, rollout: Rollout, now: dt.datetime) -> float:
    """Return how many requests a second the candidate answered in the last minute."""
    try:
        cluster = record.served.spec.version(rollout.candidate).cluster
    except NotFoundError:
        return 0.0  # the service has left this version behind
    ticks = await store.load_ticks((cluster,), after=int((now - RATE_OVER).timestamp()))
    answered = sum(tick.counts[cluster].completed for tick in ticks if cluster in tick.counts)
    return answered / RATE_OVER.total_seconds()


async def _summary(store: Store, record: ServiceRecord, rollout: Rollout, agenda: Agenda, now: dt.datetime) -> str:
    frozen = "" if rollout.plan.direct else frozen_words(agenda.freezes, rollout.service, now=now)
    match rollout.state:
        case Preparing() | Shifting() | RollingBack():
            groups, _who = await load_newest_groups(store, now=now)
            mine = tuple(carriers(groups, rollout.service))
            waiting = _waiting(level_of(mine))
            if isinstance(rollout.state, Preparing):
                cluster = record.served.spec.version(rollout.candidate).cluster
                waiting += unready_members(nodes_of(mine, now=now), await store.load_health(), cluster, now=now)
                waiting += await _holds(store, record, rollout, frozen, now)
            words = f"{rollout.state.words}: " if isinstance(rollout.state, RollingBack) else ""
            return words + ("; ".join(waiting) or "every Envoy is ready; the controller moves on within moments")
        case Baking():
            judged = json.loads(rollout.evidence) if rollout.evidence else {}
            reason = str(judged.get("reason") or "the judge has seen no complete second at this weight yet")
            held = [each for each in await _holds(store, record, rollout, frozen, now) if each not in reason]
            return "; ".join([reason, *(f"no step up meanwhile: {each}" for each in held)])
        case Paused(words=words) | Promoted(words=words) | RolledBack(words=words):
            return words or describe(rollout.state)


async def _holds(
    store: Store, record: ServiceRecord, rollout: Rollout, frozen: str, now: dt.datetime
) -> tuple[str, ...]:
    runs = await store.load_quality_runs(rollout.id)
    gate = await store.load_gate(rollout.id)
    return await load_holds(store, record.served.spec, rollout, runs, frozen=frozen, gate=gate, now=now)


def _waiting(level: FleetLevel) -> tuple[str, ...]:
    if not level.expected:
        return ("no Envoy is connected",)
    return (f"waiting for the ACK of {', '.join(level.waiting)}",) if level.waiting else ()


def _next(rollout: Rollout, found: Sequence[Standing], now: dt.datetime) -> str:
    match rollout.state:
        case Baking(step=step, since=since):
            held = (since + rollout.plan.steps[step].hold - now).total_seconds()
            waits = [each.wait_s for each in found]
            last = rollout.plan.is_last(step)
            then = "promoted" if last else units.format_weight(rollout.plan.steps[step + 1].weight_bp)
            if not waits or None in waits:
                return f"then {then}; how long that takes cannot be said yet"
            seconds = max(held, *(wait or 0.0 for wait in waits), 0.0)
            return (
                f"then {then}, in about {span_text(seconds)} at the earliest" if seconds else f"then {then}, any moment"
            )
        case Paused():
            return f"hueshift resume {rollout.service}, or hueshift abort {rollout.service}"
        case Preparing(since=since):
            left = (since + rollout.plan.prepare_timeout - now).total_seconds()
            return f"then the first step; given up in {span_text(left)}" if left > 0 else "given up within moments"
        case Shifting(step=step):
            return (
                f"then {units.format_weight(rollout.plan.steps[step].weight_bp)} is live, and the judge's clock starts"
            )
        case RollingBack():
            return f"then all traffic is {rollout.baseline}'s"
        case Promoted() | RolledBack():
            return "nothing: it has ended"
