"""What the comparisons of a rollout's pictures mean for it now: pure, over its row and those of its runs."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Final

from controlplane.ports import Rollout
from controlplane.rollout.lifecycle import carries_traffic
from controlplane.rollout.model import (
    NO_STEP,
    Baking,
    Breach,
    Event,
    Paused,
    Preparing,
    Question,
    Shifting,
)
from controlplane.rollout.quality import (
    Consequence,
    QualityRun,
    RunStatus,
    consequence,
    is_compared_before,
)
from controlplane.rollout.slo import quality_slo

RETRY: Final = dt.timedelta(seconds=20)
"""Pause after a comparison that came to nothing: the workers are spared, and a rollout that waits is not kept long."""

LONGEST: Final = dt.timedelta(minutes=31)
"""Longer than any comparison takes: one that seems to has been left behind."""


def last_verdict(runs: Sequence[QualityRun], *, since: dt.datetime) -> QualityRun | None:
    """Return the newest run with a verdict, of those begun at *since* or later; *runs* are the newest first."""
    return next((run for run in runs if run.verdict is not None and run.at >= since), None)


def is_comparing(runs: Sequence[QualityRun], *, now: dt.datetime) -> bool:
    """Whether a comparison is under way, as far as its row knows: whoever began it may have died."""
    return bool(runs) and runs[0].status is RunStatus.RUNNING and now - runs[0].at < LONGEST


def is_due(rollout: Rollout, runs: Sequence[QualityRun], *, now: dt.datetime) -> bool:
    """Whether the pictures are to be compared now."""
    slo = quality_slo(rollout.slos)
    if slo is None:
        return False
    newest = runs[0] if runs else None
    if newest is not None and newest.ended_at and newest.verdict is None and now < newest.ended_at + RETRY:
        return False
    since = _wanted_since(rollout)
    if since is not None and last_verdict(runs, since=since) is None:
        return True
    if not carries_traffic(rollout.state):
        return False
    last = last_verdict(runs, since=rollout.started_at)
    return last is None or now - last.at >= slo.interval


def picture_event(rollout: Rollout, runs: Sequence[QualityRun]) -> Event | None:
    """Return what the newest verdict means for the rollout, where that is still to happen."""
    state, since = rollout.state, rollout.started_at
    match state:
        case Preparing():
            since = state.since  # before a pause the workers may have been others
        case Shifting() | Baking():
            pass
        case Paused(step=step) if step != NO_STEP:
            pass
        case _:
            return None
    slo, run = quality_slo(rollout.slos), last_verdict(runs, since=since)
    if slo is None or run is None or run.verdict is None:
        return None
    match consequence(slo, run.verdict, rollout.asked):
        case Consequence.BREACH:
            return Breach(run.words)
        case Consequence.QUESTION if not (isinstance(state, Shifting) and state.came_from == NO_STEP):
            return Question(run.words)
        case _:
            return None


def asked_by(rollout: Rollout, event: Event | None, runs: Sequence[QualityRun]) -> Rollout:
    """Return *rollout* with what *event*, its `picture_event`, asks a person about, so that it is asked once."""
    run = last_verdict(runs, since=rollout.started_at)
    return dataclasses.replace(rollout, asked=run.verdict) if isinstance(event, Question) and run else rollout


def picture_holds(rollout: Rollout, runs: Sequence[QualityRun]) -> tuple[str, ...]:
    """Say why the rollout may not take its next step, as far as pictures are concerned; see `observer.Case`."""
    slo = quality_slo(rollout.slos)
    if slo is None or slo.terms.muted:
        return ()
    event = picture_event(rollout, runs)
    if isinstance(event, Breach | Question):
        return (event.words,)
    since = _wanted_since(rollout)
    if since is None or last_verdict(runs, since=since) is not None:
        return ()
    versions = f"the pictures of {rollout.candidate} and {rollout.baseline}"
    newest = runs[0] if runs else None
    if newest is None or newest.verdict is not None:
        return (f"{versions} are not compared yet",)
    if newest.status is RunStatus.RUNNING:
        return (f"{versions} are being compared",)
    return (f"{versions} cannot be compared: {newest.words}",)


def _wanted_since(rollout: Rollout) -> dt.datetime | None:
    """Return since when a verdict is wanted for the next step; None where that step wants none."""
    match rollout.state:
        case Preparing(since=since):
            step = 0
        case Baking(step=now, since=since, probing=False) if not rollout.plan.is_last(now):
            step = now + 1
        case _:
            return None
    return since if is_compared_before(rollout.plan, rollout.slos, step) else None
