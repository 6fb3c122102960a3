"""A rollout's record judged again, by its own objectives or by others."""

import asyncio
import datetime as dt
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request

from controlplane.api import units
from controlplane.api.access import Reader, UseParts
from controlplane.api.answers import ReplayedView, ReplayView, SaidView
from controlplane.api.objectives import describe_slo, objectives_from
from controlplane.api.requests import ReplayRequest
from controlplane.api.routing import ApiRoute
from controlplane.errors import UnavailableError
from controlplane.ports import Rollout, RolloutId, Store
from controlplane.rollout.judge import Policy
from controlplane.rollout.lifecycle import describe, state_name
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.replay import (
    IncompleteRecordError,
    Replay,
    ReplayedTick,
    Said,
    changes,
    sum_up,
    tell,
)
from controlplane.rollout.slo import speaks_grpc, with_defaults

MAX_REPLAYS: Final = 2
"""Replays at once: each keeps a processor busy, about a millisecond per judged second."""
MAX_SECONDS: Final = 4 * 3600
"""Judged seconds after which a replay stops and says so."""

router = APIRouter(prefix="/v1", tags=["rollouts"], route_class=ApiRoute)


@router.post("/rollouts/{rollout}/replay")
async def replay_rollout(
    rollout: Annotated[str, Path(description="Its id, for example colorize-7.", max_length=80)],
    request: Request,
    parts: UseParts,
    _: Reader,
    body: ReplayRequest | None = None,
) -> ReplayView:
    """Judge a rollout's recorded telemetry again, by its own objectives or by others. Changes nothing."""
    asked = body or ReplayRequest()
    found = await parts.store.load(RolloutId(rollout))
    slos = found.slos if asked.slos is None else objectives_from(asked.slos, grpc=speaks_grpc(found.slos))
    if request.app.state.replays >= MAX_REPLAYS:
        raise UnavailableError(f"{MAX_REPLAYS} replays run already; ask again in a moment")
    request.app.state.replays += 1
    try:
        ticks, complete = await _judge_again(parts.store, found, policy_of(slos))
    finally:
        request.app.state.replays -= 1
    outcome = sum_up(ticks)
    summary = list(tell(outcome, since=int(found.started_at.timestamp())))
    if not complete:
        summary.append(f"the record goes on: only its first {len(ticks)} judged seconds were replayed")
    return ReplayView(
        rollout=found.id,
        service=found.service,
        state=state_name(found.state),
        phase=describe(found.state),
        objectives=[describe_slo(slo) for slo in with_defaults(slos)],
        judged=outcome.judged,
        complete=complete,
        reproduced=outcome.is_reproduced,
        deviation=_replayed_view(outcome.deviation) if outcome.deviation else None,
        summary=summary,
        ticks=[_replayed_view(tick) for tick in (ticks if asked.all else changes(ticks))],
    )


async def _judge_again(store: Store, rollout: Rollout, policy: Policy) -> tuple[list[ReplayedTick], bool]:
    """Return the judged seconds, and whether they are all that is recorded. A part at a time, beside the loop."""
    replay, ticks, after = Replay(rollout.id, policy), list[ReplayedTick](), 0
    while len(ticks) < MAX_SECONDS:
        record = await store.load_judged(rollout.id, after=after)
        if not record:
            if not after and rollout.judged_tick is not None:
                raise IncompleteRecordError(rollout.id)
            return ticks, True
        ticks += await asyncio.to_thread(replay.take, record)
        after = record[-1].tick
    return ticks, False


def _replayed_view(tick: ReplayedTick) -> ReplayedView:
    return ReplayedView(
        tick=tick.tick,
        at=dt.datetime.fromtimestamp(tick.tick, dt.UTC),
        weight=units.format_weight(tick.exposure.weight_bp),
        weight_bp=tick.exposure.weight_bp,
        partial=tick.partial,
        recorded=_said_view(tick.recorded),
        replayed=_said_view(tick.replayed),
        same=tick.is_same,
    )


def _said_view(said: Said) -> SaidView:
    return SaidView(verdict=said.verdict.name.lower(), decision=said.decision.name.lower(), words=said.words)
