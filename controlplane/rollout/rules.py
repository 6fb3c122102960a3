"""From evidence to a verdict: whose a breach is, what an advance asks for, and which rule comes first."""

from typing import Final

import numpy as np

from controlplane.rollout import evidence
from controlplane.rollout.policy import BatchPolicy, Bools, Floats, Ints
from controlplane.rollout.processes import LATENCY, NOT_INFERIOR, SHIFT, layout
from controlplane.rollout.state import NEVER, BatchState
from controlplane.rollout.verdict import BatchExposure, BatchJudgement, Cause, Verdict
from controlplane.rollout.windows import BASELINE, CANDIDATE, BatchTicks

STICKY_S: Final = 120
"""Seconds for which a breach, or the baseline's trouble, is remembered after it was last seen."""
LOG_ACQUITTED: Final = float(np.log(20))
"""Evidence that the baseline is not where the candidate is."""
LOG_LIKELY: Final = float(np.log(3))
"""The same for a breach that lasts."""
HORIZON_S: Final = 30.0
"""Seconds in which the next step's own evidence is expected."""
MAX_VANISHED: Final = 2
"""Times a breach may vanish with half of the traffic before the candidate is held to be too weak for all of it."""


def _attributed(
    new: BatchState, relative: Floats, breach: Bools, exposure: BatchExposure, policy: BatchPolicy
) -> Bools:
    """Say per objective whether a recent breach is the candidate's own, from the same ticks of both versions only.

    *relative* is the evidence that the candidate's odds of a bad request are higher than the baseline's.
    """
    tick = new.tick[:, None]
    recent: Bools = tick - new.last_breach <= STICKY_S
    if not recent.any():
        return recent
    worse = relative >= policy.threshold
    requests, bad = new.beside[..., 0], new.beside[..., 1]
    # One request more than there were: two bad ones of two do not yet say that every one is.
    share = bad[..., CANDIDATE] / (requests[..., CANDIDATE] + 1)
    level = np.maximum(policy.bound, share / 2)
    worth = new.beside[:, :, BASELINE] / evidence.dispersion(new.baseline_bursts[:, :, 0])[..., None]
    alone = evidence.log_below(worth[..., 1], worth[..., 0], level)
    lasting = breach & (tick - new.breach_since >= policy.attribution_s[:, None])
    lasting &= alone >= LOG_LIKELY
    beside = (exposure.weight[:, None] < 1) & (tick - new.baseline_hot > STICKY_S)
    acquitted = (alone >= LOG_ACQUITTED) & (share > policy.bound)
    # The breach itself is beyond doubt before a probe begins: the comparison only has to say whose it is.
    probed = exposure.probing[:, None] & (relative >= policy.threshold / 2)
    attributed: Bools = recent & (worse | probed | (beside & (acquitted | lasting)))
    return attributed


def decide(
    new: BatchState, breach: Bools, dead: Bools, ticks: BatchTicks, exposure: BatchExposure, policy: BatchPolicy
) -> BatchJudgement:
    """Judge many rollouts by their memory after this tick; the first rule that applies decides.

    Args:
        new: The memory, this tick included.
        breach: Per objective, whether the bound is breached now.
        dead: Per objective, whether nearly every request of the candidate is bad.
        ticks: The tick; only what is missing in it matters here.
        exposure: The rollouts' weights and clocks.
        policy: The rollouts' policies.
    """
    places = layout(policy.objectives)
    odds = new.stakes.sum(axis=-1)
    tick = new.tick
    deciding = policy.deciding & ~new.asked
    breach = breach & deciding
    breached = _attributed(new, odds[:, places.relative], breach, exposure, policy) & deciding
    retreat = breach & policy.retreat_when_shared[:, None]
    more, some = np.zeros_like(deciding), np.zeros_like(deciding)
    compared = np.minimum(odds[:, places.worse], odds[:, places.floor])
    more[:, places.compared] = odds[:, places.worse] >= policy.threshold[:, places.compared]
    more &= deciding & (tick[:, None] - new.last_floor <= STICKY_S)
    # An objective without a bound has no proof to give before a step: a suspicion is enough to wait.
    some[:, places.compared] = np.log(np.maximum(compared, 1e-300)) >= policy.log_advance[:, None]
    some &= deciding & ~policy.absolute
    slower = deciding[:, LATENCY] & (odds[:, SHIFT].mean(axis=-1) >= policy.threshold[:, LATENCY])

    loose = exposure.next_weight[:, None] * evidence.ratio(new.rate[:, :1], new.rate[:, 1:]) * HORIZON_S
    extra = np.divide(policy.budget, loose, out=np.full_like(policy.budget, np.inf), where=loose > 0)
    limit = policy.bound + np.where((exposure.last | exposure.probing)[:, None], 0.0, extra)
    dispersion = np.maximum(evidence.dispersion(new.baseline_bursts[:, :, 0]), evidence.dispersion(new.bursts))
    worth = evidence.at_dispersion(new.deflated, dispersion)
    proof = evidence.log_below(worth[..., 1], worth[..., 0], np.minimum(limit, 1 - 1e-9))
    shown = (worth[..., 0] > 0) & ((limit >= 1) | (proof >= policy.log_advance[:, None])) | ~(
        deciding & policy.absolute
    )

    full = exposure.weight >= 1
    breaching = _any(breach)
    quiet = new.quiet_s >= np.where(exposure.probing, policy.quiet_s, np.minimum(policy.quiet_s, exposure.min_hold_s))
    held = np.minimum(new.held_s, exposure.held_s) >= exposure.min_hold_s
    no_slower = (
        full
        | (exposure.next_weight < 1)
        | ~deciding[:, LATENCY]
        | (np.log(np.maximum(odds[:, NOT_INFERIOR], 1e-300)) >= policy.log_advance)
    )
    alone = (new.baseline_hot < new.probe_since[:, None]).all(axis=-1)
    vanished = new.vanished + alone >= MAX_VANISHED
    shared = breach & (tick[:, None] - new.baseline_hot <= STICKY_S)
    over = quiet & shown.all(axis=-1)
    served = new.step_requests > 0
    probing = exposure.probing
    nothing = np.zeros(tick.size, dtype=np.int64)
    latest = np.where(deciding, new.last_breach, NEVER).argmax(axis=-1)
    rules: tuple[tuple[Bools, Verdict, Cause, Ints], ...] = (
        (_any(dead), Verdict.ROLLBACK, Cause.DEAD, _first(dead)),
        (_any(breached), Verdict.ROLLBACK, Cause.BREACH, _first(breached)),
        (_any(more), Verdict.ROLLBACK, Cause.WORSE, _first(more)),
        (slower, Verdict.ROLLBACK, Cause.SLOWER, nothing + LATENCY),
        (_any(retreat), Verdict.ROLLBACK, Cause.BREACH, _first(retreat)),
        (breaching & full & ~probing, Verdict.PROBE, Cause.LONE_BREACH, _first(breach)),
        (_any(shared), Verdict.HOLD, Cause.SHARED_INCIDENT, _first(shared)),
        (breaching, Verdict.HOLD, Cause.UNDECIDED_BREACH, _first(breach)),
        (ticks.gap, Verdict.HOLD, Cause.NO_TELEMETRY, nothing),
        (ticks.unknown, Verdict.HOLD, Cause.NO_DATA, nothing),
        (~served, Verdict.HOLD, Cause.NO_TRAFFIC, nothing),
        (probing & over & vanished, Verdict.ROLLBACK, Cause.TOO_WEAK, latest),
        (probing & over, Verdict.ADVANCE, Cause.BREACH_OVER, nothing),
        (~quiet, Verdict.HOLD, Cause.QUIET_TIME, nothing),
        (~held, Verdict.HOLD, Cause.MIN_HOLD, nothing),
        (_any(~shown), Verdict.HOLD, Cause.TOO_LITTLE_EVIDENCE, _first(~shown)),
        (_any(some), Verdict.HOLD, Cause.SUSPECT, _first(some)),
        (~no_slower, Verdict.HOLD, Cause.NOT_COMPARED, nothing + LATENCY),
        (np.ones_like(full), Verdict.ADVANCE, Cause.ALL_KEPT, nothing),
    )
    first = np.argmax([rule[0] for rule in rules], axis=0)
    rows = np.arange(first.size)
    verdict = np.array([int(rule[1]) for rule in rules])[first]
    objective = np.array([rule[3] for rule in rules])[first, rows]
    moves_back = (verdict == Verdict.ROLLBACK) | (verdict == Verdict.PROBE)
    return BatchJudgement(
        verdict=np.where(moves_back & policy.asks[rows, objective], Verdict.ASK, verdict),
        cause=np.array([int(rule[2]) for rule in rules])[first],
        objective=objective,
        odds=odds,
        hard_odds=new.hard,
        worth=worth,
        shown=shown,
        limit=limit,
    )


def _any(mask: Bools) -> Bools:
    result: Bools = np.any(mask, axis=-1)
    return result


def _first(mask: Bools) -> Ints:
    result: Ints = np.argmax(mask, axis=-1)
    return result
