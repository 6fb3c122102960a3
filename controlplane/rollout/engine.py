"""One tick of many rollouts: bets, bounds and the rules that make verdicts of them.

Context: a verdict is wanted every second, from the first request on, without the false alarms that repeated looking
brings. Choice: evidence that stays valid whenever it is looked at (see `evidence`); a breach counts against the
candidate only if the baseline does not share it in the same ticks; an advance asks for a proof of its own.
Consequences: too little traffic never decides anything, and the memory of a rollout has a fixed size.
"""

import dataclasses
from typing import Final

import numpy as np

from controlplane.rollout import evidence
from controlplane.rollout.policy import BatchPolicy, Bools, Floats, Ints
from controlplane.rollout.processes import BUILT_IN, ERROR, NOT_INFERIOR, SHIFT, Layout, layout
from controlplane.rollout.rules import STICKY_S, decide
from controlplane.rollout.state import BELOW, NEVER, UNKNOWN, BatchState
from controlplane.rollout.tally import ENOUGH_SAMPLES, TAIL_SAMPLES, Tally, place_edges, tally
from controlplane.rollout.verdict import BatchExposure, BatchJudgement, Cause, Verdict
from controlplane.rollout.windows import BASELINE, CANDIDATE, BatchTicks

HOT: Final = 3.0
"""The baseline's own evidence of a breach from which on the trouble counts as shared."""
MEMORY_S: Final = 300.0
"""Seconds after which the baseline's burstiness fades out."""
PAIR_REQUESTS: Final = 1.5
PAIR_MAX_S: Final = 20.0
"""Requests that the version with fewer should have before the two are compared, and how long to wait for them."""
SPAN_S: Final = 10
RATE_S: Final = 30.0
DEAD_SHARE: Final = 0.8
SOME_GOOD: Final = 5
"""Good baseline requests without which the hard stop does not believe that the baseline works."""
RECOVERY_S: Final = 10
"""Seconds after the baseline's own trouble in which a hard stop is not trusted: one version may recover first."""
FRESH_WEIGHT: Final = 0.9
FRESH_TICKS: Final = 60


def observe_batch(state: BatchState, ticks: BatchTicks, policy: BatchPolicy) -> BatchState:
    """Watch the baseline alone, before the rollout starts: how fast, how bursty, how much traffic."""
    places = layout(policy.objectives)
    state = state.widened(policy.objectives)
    seen = tally(state, ticks, policy)
    x, pi, usable = _observations(seen.counts, state.pair, state.pair_latency, policy, places)
    usable &= places.lone
    stakes, observed = _wager(state, x, pi, usable, places.bets, policy)
    new = dataclasses.replace(
        state,
        tick=ticks.tick,
        stakes=stakes,
        observed=observed,
        baseline_bursts=_burstiness(state, seen, stakes.sum(axis=-1)[:, places.baseline], ticks, policy),
        rate=_rate(state, ticks),
        histogram=state.histogram + ticks.latency[:, BASELINE],
        counted=seen.counted,
        starts=seen.starts,
        starts_since=seen.starts_since,
    )
    return _only_fresh(new, state, ticks)


def judge_batch(
    state: BatchState, ticks: BatchTicks, exposure: BatchExposure, policy: BatchPolicy
) -> tuple[BatchState, BatchJudgement]:
    """Take in one tick of many rollouts and judge each of them; a tick that was taken in before changes nothing."""
    old = state = state.widened(policy.objectives)
    places = layout(policy.objectives)
    state = _at_new_weight(_begin(_stop_clocks(state, ticks), policy), ticks.tick, exposure, policy)
    seen = tally(state, ticks, policy)
    counts = seen.counts
    latency = _compare_latency(state, seen, policy)
    pair, pair_latency = state.pair + counts, state.pair_latency + latency
    pair_s, closed = _close_pair(state, exposure)
    x, pi, usable = _observations(counts, pair, pair_latency, policy, places)
    usable &= closed[:, None] | ~places.paired
    stakes, observed = _wager(state, x, pi, usable, _bets(state, pair_s, exposure, places), policy)
    odds = stakes.sum(axis=-1)
    hard, hard_observed, hard_baseline, dead = _hard_stop(state, counts, ticks, policy)

    breach = (odds[:, places.absolute] >= policy.threshold) & policy.absolute
    deciding = policy.deciding & ~state.asked
    tick = ticks.tick[:, None]
    hot = np.where(odds[:, places.baseline] >= HOT, tick, state.baseline_hot)
    was_over = state.last_breach < tick - STICKY_S
    restart = (breach & deciding).any(axis=-1)
    seconds = np.where(ticks.gap | ticks.unknown, 0.0, 1.0)
    candidate = counts[:, :, CANDIDATE]
    punctual = np.where(_belated(state, ticks)[:, None, None], 0.0, candidate)
    showing = odds[:, places.absolute] >= 1
    kept = np.where(restart, 0.0, 1.0)[:, None, None]
    over_floor = np.zeros_like(breach)
    over_floor[:, places.compared] = odds[:, places.floor] >= policy.threshold[:, places.compared]
    # The proof that the candidate is no slower starts again with every incident, as all promotion evidence does.
    stakes[restart, NOT_INFERIOR] = 0.0
    observed[restart, NOT_INFERIOR] = 0
    new = dataclasses.replace(
        state,
        tick=ticks.tick,
        stakes=stakes,
        observed=observed,
        hard=hard,
        hard_observed=hard_observed,
        hard_baseline=hard_baseline,
        seen=(state.seen + counts) * kept[..., None],
        beside=np.where(showing[..., None, None], state.beside + counts, 0.0),
        pair=np.where(closed[:, None, None, None], 0.0, pair),
        pair_latency=np.where(closed[:, None, None, None], 0.0, pair_latency),
        pair_s=np.where(closed, 0, pair_s),
        shifts=(state.shifts + latency) * kept[..., None],
        step_requests=state.step_requests + candidate[:, :BUILT_IN, 0].max(axis=-1),
        baseline_bursts=_burstiness(state, seen, odds[:, places.baseline], ticks, policy),
        deflated=(state.deflated + evidence.deflate(punctual)) * kept[..., None],
        bursts=(state.bursts + evidence.moments(punctual[..., 1], punctual[..., 0])) * kept,
        rate=_rate(state, ticks),
        quiet_s=np.where(restart, 0.0, state.quiet_s + seconds),
        held_s=state.held_s + seconds,
        last_breach=np.where(breach, tick, state.last_breach),
        breach_since=np.where(breach & was_over, tick, state.breach_since),
        baseline_hot=hot,
        last_floor=np.where(over_floor, tick, state.last_floor),
        histogram=np.where(state.frozen[:, None], 0, state.histogram + ticks.latency[:, BASELINE]),
        counted=seen.counted,
        starts=seen.starts,
        starts_since=seen.starts_since,
    )
    judgement = decide(new, breach, dead, ticks, exposure, policy)
    asked = (judgement.verdict == Verdict.ASK)[:, None] & (np.arange(policy.objectives) == judgement.objective[:, None])
    new = dataclasses.replace(new, asked=state.asked | asked)
    fresh = ticks.tick > old.tick
    if not fresh.all():
        new = new.where(fresh, old)
        judgement = dataclasses.replace(
            judgement,
            verdict=np.where(fresh, judgement.verdict, Verdict.HOLD),
            cause=np.where(fresh, judgement.cause, Cause.REPEATED_TICK),
        )
    return new, judgement


def dead_batch(state: BatchState, partial: BatchTicks, policy: BatchPolicy) -> Bools:
    """Say for which rollouts the unfinished tick already shows that nearly every request fails."""
    counts = np.zeros((partial.tick.size, policy.objectives, 2, 2))
    counts[:, ERROR, :, 0] = partial.completed
    counts[:, ERROR, :, 1] = partial.errors
    *_, dead = _hard_stop(state, counts, partial, policy)
    return dead[:, ERROR] & (partial.tick > state.tick)


# -- memory -----------------------------------------------------------------------------------------------------------


def _only_fresh(new: BatchState, old: BatchState, ticks: BatchTicks) -> BatchState:
    fresh = ticks.tick > old.tick
    return new if fresh.all() else new.where(fresh, old)


def _stop_clocks(state: BatchState, ticks: BatchTicks) -> BatchState:
    """Move what happened up by the seconds without telemetry, so that they count neither for nor against anyone."""
    lost = np.where(state.tick == NEVER, 0, np.maximum(ticks.tick - state.tick - ~ticks.gap, 0))
    if not lost.any():
        return state
    return dataclasses.replace(
        state,
        last_breach=_moved(state.last_breach, lost[:, None]),
        breach_since=_moved(state.breach_since, lost[:, None]),
        baseline_hot=_moved(state.baseline_hot, lost[:, None]),
        last_floor=_moved(state.last_floor, lost[:, None]),
        probe_since=_moved(state.probe_since, lost),
    )


def _moved(moments: Ints, lost: Ints) -> Ints:
    return np.where(moments == NEVER, NEVER, moments + lost)


def _belated(state: BatchState, ticks: BatchTicks) -> Bools:
    """Say where a tick holds, or may hold, what happened in seconds of which nothing was heard.

    The bets take it as the one observation it is. Whether a bound is kept, and how bursty errors are, is asked request
    by request and tick by tick, and there an incident that nobody saw would weigh for minutes like one that lasts.
    """
    belated: Bools = ticks.gap | (ticks.tick == state.starts_since)
    return belated


def _begin(state: BatchState, policy: BatchPolicy) -> BatchState:
    """Place the latency edges as long as they move, and start both versions' evidence on the same tick."""
    if state.begun.all() and state.frozen.all():
        return state
    samples = state.histogram.sum(axis=-1)
    first = ~state.begun
    return dataclasses.replace(
        state,
        begun=np.ones_like(state.begun),
        stakes=np.where(first[:, None, None], 0.0, state.stakes),
        observed=np.where(first[:, None], 0, state.observed),
        edges=place_edges(state, policy, rows=~state.frozen),
        frozen=state.frozen | (samples >= np.where(first, TAIL_SAMPLES, ENOUGH_SAMPLES)),
    )


def _at_new_weight(state: BatchState, tick: Ints, exposure: BatchExposure, policy: BatchPolicy) -> BatchState:
    """Pay for a fresh start at a weight change, and begin what is counted per step or per probe."""
    probe_starts = exposure.probing & ~state.probing
    probe_ends = state.probing & ~exposure.probing
    changed = exposure.weight_changed | probe_starts | probe_ends
    if not changed.any():
        return state
    paid = changed & (state.changes < evidence.MAX_CHANGES) & (state.observed.any(axis=-1))
    fresh = np.where(paid, evidence.CHANGE_WEIGHT, 0.0)
    places = layout(policy.objectives)
    wanted = policy.enabled[..., None] * places.prior
    stakes = state.stakes + fresh[:, None, None] * wanted
    probed = np.where(probe_starts, evidence.PROBE_WEIGHT, 0.0)[:, None, None]
    stakes[:, places.relative] += probed * wanted[:, places.relative]
    stakes[changed, NOT_INFERIOR] = 0.0
    observed = state.observed.copy()
    observed[changed, NOT_INFERIOR] = 0
    # What was seen without a baseline beside it must not decide the probe.
    row = probe_starts[:, None]
    cell = row[..., None, None]
    shared = (state.baseline_hot >= state.probe_since[:, None]).any(axis=-1)
    return dataclasses.replace(
        state,
        stakes=stakes,
        observed=observed,
        changes=state.changes + paid,
        hard=state.hard + fresh[:, None] * policy.present,
        seen=np.where(cell, 0.0, state.seen),
        deflated=np.where(cell, 0.0, state.deflated),
        bursts=np.where(row[..., None], 0.0, state.bursts),
        beside=np.where(cell, 0.0, state.beside),
        pair=np.where(changed[:, None, None, None], 0.0, state.pair),
        pair_latency=np.where(changed[:, None, None, None], 0.0, state.pair_latency),
        pair_s=np.where(changed, 0, state.pair_s),
        step_requests=np.where(changed, 0.0, state.step_requests),
        quiet_s=np.where(changed, 0.0, state.quiet_s),
        held_s=np.where(changed, 0.0, state.held_s),
        breach_since=np.where(row & policy.present, tick[:, None], state.breach_since),
        probe_since=np.where(probe_starts, tick, state.probe_since),
        vanished=state.vanished + (probe_ends & ~shared),
        probing=exposure.probing.copy(),
    )


def _rate(state: BatchState, ticks: BatchTicks) -> Floats:
    seconds = np.where(state.tick == NEVER, 1, np.clip(ticks.tick - state.tick, 1, 3600))
    news = np.stack((ticks.completed.sum(axis=-1), seconds), axis=-1)
    return np.where(ticks.gap[:, None], state.rate, state.rate * np.exp(-seconds / RATE_S)[:, None] + news)


def _burstiness(state: BatchState, seen: Tally, own: Floats, ticks: BatchTicks, policy: BatchPolicy) -> Floats:
    """Follow how bursty the baseline is: settled, older and recent ticks.

    Only settled ticks count. A tick settles when two spans have passed without trouble; those that turn out to be
    the start of an incident are dropped, or it would look like a burst for minutes. *own* is the evidence of the
    baseline's own trouble.
    """
    baseline = np.where(_belated(state, ticks)[:, None, None], 0.0, seen.counts[:, :, BASELINE])
    settled, older = state.baseline_bursts[:, :, 0], state.baseline_bursts[:, :, 1]
    recent = state.baseline_bursts[:, :, 2] + evidence.moments(baseline[..., 1], baseline[..., 0])
    settled = settled * np.exp(-1 / MEMORY_S)
    own = own[..., None]
    turn = (own < HOT) & (ticks.tick // SPAN_S != state.tick // SPAN_S)[:, None, None]
    incident = own >= policy.threshold[..., None]
    return np.stack(
        (
            np.where(turn, settled + older, settled),
            np.where(incident, 0.0, np.where(turn, recent, older)),
            np.where(incident | turn, 0.0, recent),
        ),
        axis=2,
    )


def _compare_latency(state: BatchState, seen: Tally, policy: BatchPolicy) -> Floats:
    """Count per place of comparison and version: finished requests, and those above the version's edge.

    Where most of the baseline's requests are faster than can be told, the candidate is compared with a half: it is as
    fast when its median is below the first edge, too.
    """
    rows = np.arange(state.tick.size)[:, None]
    edges = np.maximum(state.edges, 0)
    moved = policy.shifted_edge[rows, edges]
    moved[:, 2] = policy.inferior_edge[rows[:, 0], edges[:, 2]]
    counts = np.empty((*edges.shape, 2, 2))
    counts[..., 0] = seen.finished[:, None]
    counts[..., BASELINE, 1] = seen.above[rows, BASELINE, edges]
    counts[..., CANDIDATE, 1] = seen.above[rows, CANDIDATE, moved]
    counts[..., BASELINE, 1] = np.where(state.edges == BELOW, counts[..., BASELINE, 0] / 2, counts[..., BASELINE, 1])
    return np.where((state.edges != UNKNOWN)[..., None, None], counts, 0.0)


# -- evidence ---------------------------------------------------------------------------------------------------------


def _close_pair(state: BatchState, exposure: BatchExposure) -> tuple[Ints, Bools]:
    """Say how many ticks the pair has, and whether both versions should have requests to compare by now.

    How many ticks make a pair follows from weight and rate alone, never from how the requests ended, and the
    weight is the same in all of them: so neither version can owe a difference to the time its requests came.
    """
    smaller = np.minimum(exposure.weight, 1 - exposure.weight) * evidence.ratio(state.rate[:, 0], state.rate[:, 1])
    wanted = np.ceil(np.minimum(PAIR_REQUESTS / np.maximum(smaller, 1e-9), PAIR_MAX_S))
    pair_s = state.pair_s + 1
    return pair_s, pair_s >= wanted


def _observations(
    counts: Floats, pair: Floats, pair_latency: Floats, policy: BatchPolicy, places: Layout
) -> tuple[Floats, Floats, Bools]:
    """Give for each process what this tick shows, what its null expects, and whether there is anything to see."""
    total, bad = counts[..., 0], counts[..., 1]
    shares, any_at_all = evidence.ratio(bad, total), total > 0
    compared = places.compared
    x = np.empty_like(policy.share)
    pi = policy.share.copy()
    usable = np.empty_like(policy.enabled)
    x[:, places.absolute], x[:, places.baseline] = shares[..., CANDIDATE], shares[..., BASELINE]
    usable[:, places.absolute], usable[:, places.baseline] = any_at_all[..., CANDIDATE], any_at_all[..., BASELINE]
    x[:, places.floor], usable[:, places.floor] = shares[:, compared, CANDIDATE], any_at_all[:, compared, CANDIDATE]

    total, bad = pair[..., 0], pair[..., 1]
    all_bad = bad.sum(axis=-1)
    ours, both = evidence.ratio(bad[..., CANDIDATE], all_bad), (total > 0).all(axis=-1) & (all_bad > 0)
    x[:, places.relative], usable[:, places.relative] = ours, both
    pi[:, places.relative] = evidence.ratio(total[..., CANDIDATE], total.sum(axis=-1))
    x[:, places.worse], usable[:, places.worse] = ours[:, compared], both[:, compared]
    pi[:, places.worse] = evidence.relative_share(
        total[:, compared, BASELINE], total[:, compared, CANDIDATE], policy.odds_ratio[:, compared]
    )

    above = evidence.ratio(pair_latency[..., 1], pair_latency[..., 0])
    difference = above[..., CANDIDATE] - above[..., BASELINE]
    difference[:, -1] *= -1
    x[:, SHIFT.start : NOT_INFERIOR + 1] = difference
    usable[:, SHIFT.start : NOT_INFERIOR + 1] = (pair_latency[..., 0] > 0).all(axis=-1)
    return x, pi, usable & policy.enabled


def _bets(state: BatchState, pair_s: Ints, exposure: BatchExposure, places: Layout) -> Floats:
    """Give each process its bets.

    What is staked on latencies follows, as the pairs do, from weight and rate alone and never from how requests
    ended: so the bet is fair whatever it is.
    """
    bets = np.tile(places.bets, (pair_s.size, 1, 1))
    expected = evidence.ratio(state.rate[:, 0], state.rate[:, 1]) * pair_s
    baseline, candidate = expected * (1 - exposure.weight), expected * exposure.weight
    bets[:, NOT_INFERIOR] = evidence.difference_bets(baseline, candidate)
    bets[:, SHIFT] = evidence.shift_bets(baseline, candidate)
    return bets


def _wager(
    state: BatchState, x: Floats, pi: Floats, usable: Bools, bets: Floats, policy: BatchPolicy
) -> tuple[Floats, Ints]:
    weight = evidence.start_weight(state.observed)
    fresh = state.observed[:, NOT_INFERIOR]
    weight[:, NOT_INFERIOR] = np.where(
        fresh == 0, FRESH_WEIGHT, np.where(fresh <= FRESH_TICKS, (1 - FRESH_WEIGHT) / FRESH_TICKS, 0.0)
    )
    grown = (state.stakes + weight[..., None] * layout(policy.objectives).prior) * evidence.factor(x, pi, bets)
    odds = grown.sum(axis=-1)
    grown *= np.minimum(1.0, policy.cap / np.maximum(odds, 1.0))[..., None]
    return np.where(usable[..., None], grown, state.stakes), state.observed + usable


def _hard_stop(
    state: BatchState, counts: Floats, ticks: BatchTicks, policy: BatchPolicy
) -> tuple[Floats, Ints, Floats, Bools]:
    """Weigh single requests: nearly all of the candidate's are bad while the baseline serves its own.

    Deflated by how bursty the baseline is, or a burst that hits a healthy candidate would stop it.
    """
    total, bad = counts[..., 0], counts[..., 1]
    requests, failed = total[..., CANDIDATE], bad[..., CANDIDATE]
    works = (total[..., BASELINE] > 0) & (2 * bad[..., BASELINE] <= total[..., BASELINE])
    usable = works & (requests > 0)
    log_gain = evidence.log_hard(failed, requests, evidence.dispersion(state.baseline_bursts[:, :, 0]))
    grown = (state.hard + evidence.start_weight(state.hard_observed)) * np.exp(np.clip(log_gain, -50, 50))
    limit = policy.hard_threshold[:, None]
    hard = np.where(usable, np.minimum(grown, 2 * limit), state.hard)
    baseline = np.where(state.hard[..., None] < 1, 0.0, state.hard_baseline) + counts[:, :, BASELINE]
    lives = ticks.tick[:, None] - state.baseline_hot > RECOVERY_S
    lives &= (baseline[..., 0] - baseline[..., 1] >= SOME_GOOD) & (2 * baseline[..., 1] <= baseline[..., 0])
    dead = policy.stops & ~state.asked & usable & lives & (hard >= limit) & (failed >= DEAD_SHARE * requests)
    return hard, state.hard_observed + usable, baseline, dead
