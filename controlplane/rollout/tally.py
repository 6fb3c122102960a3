"""From a tick's counts to good and bad requests: each request counts once per objective, as soon as it is known."""

import dataclasses
from typing import Final

import numpy as np

from controlplane.rollout.policy import BatchPolicy, Bools, Floats, Ints
from controlplane.rollout.processes import BUILT_IN, ERROR, LATENCY
from controlplane.rollout.state import BELOW, NEVER, UNKNOWN, BatchState, widen
from controlplane.rollout.windows import LATENCY_EDGES_MS, BatchTicks

MEDIAN_SAMPLES: Final = 30
TAIL_SAMPLES: Final = 200
ENOUGH_SAMPLES: Final = 1000
"""Baseline requests from which on its median and 95th percentile are placed, and placed for good."""

_EDGES: Final = np.array(LATENCY_EDGES_MS)
_MISFIT: Final = 0.03
"""Distance from the wanted latency ratio that weighs as much as the whole allowed distance from the quantile."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """What one tick says, request by request."""

    counts: Floats
    """Rollouts x objectives x versions x (requests, bad)."""
    finished: Ints
    """Rollouts x versions: requests with a latency."""
    above: Ints
    """Rollouts x versions x edges: finished requests slower than the edge; the last entry is 0."""
    counted: Ints
    starts: Ints
    starts_since: Ints


def tally(state: BatchState, ticks: BatchTicks, policy: BatchPolicy) -> Tally:
    """Count good and bad requests of one tick.

    A request in flight for longer than the latency threshold is slow now, not when it ends: of *active* requests,
    those that cannot have started within the threshold are. When they end they are not counted again.
    """
    rows = np.arange(ticks.tick.size)
    latency = ticks.latency
    finished = latency.sum(axis=-1)
    above = finished[..., None] - latency.cumsum(axis=-1)
    slow = above[rows, :, policy.slow_edge]
    starts, starts_since = _remember_starts(state, ticks, policy)
    known = ~ticks.gap & (ticks.tick - starts_since + 1 >= policy.cells * policy.cell_s)
    recent = np.where(np.arange(starts.shape[-1]) < policy.cells[:, None, None], starts, 0).sum(axis=-1)
    overdue = np.where(known[:, None], np.maximum(ticks.active - recent, 0), 0)

    still_counted = state.counted - slow
    newly_ended = np.maximum(-still_counted, 0)
    # Requests may leave without a latency (resets): nobody still in flight can have been counted who is not there.
    most = np.where(ticks.gap[:, None], np.maximum(state.counted, 0), ticks.active)
    still_counted = np.clip(still_counted, 0, most)
    bad = newly_ended + np.maximum(overdue - still_counted, 0)
    counts = np.zeros((ticks.tick.size, policy.objectives, 2, 2))
    counts[:, ERROR, :, 0] = ticks.completed
    counts[:, ERROR, :, 1] = ticks.errors
    counts[:, BUILT_IN : BUILT_IN + ticks.shares.shape[1]] = ticks.shares
    counts[:, LATENCY, :, 0] = finished - slow + bad
    counts[:, LATENCY, :, 1] = bad
    return Tally(counts, finished, above, np.maximum(still_counted, overdue), starts, starts_since)


def _remember_starts(state: BatchState, ticks: BatchTicks, policy: BatchPolicy) -> tuple[Ints, Ints]:
    cells = policy.cells[:, None]
    starts = widen(state.starts, int(policy.cells.max(initial=1)))
    width = starts.shape[-1]
    now = ticks.tick // policy.cell_s
    places = np.arange(width)
    age = (now[:, None] - places) % cells
    passed = now - state.tick // policy.cell_s
    starts = np.where((age < passed[:, None])[:, None, :], 0, starts)
    starts = starts + np.where(((age == 0) & (places < cells))[:, None, :], ticks.started[..., None], 0)
    since = np.where(state.tick == NEVER, ticks.tick, state.starts_since)
    return starts, np.where(ticks.gap, ticks.tick + 1, since)


def place_edges(state: BatchState, policy: BatchPolicy, *, rows: Bools) -> Ints:
    """Choose where the versions' latencies are compared, from what the baseline has shown before this tick.

    Among the edges near a quantile the one is taken whose tolerated multiple is closest to an edge as well. Latencies
    that lie close together may leave no edge near the quantile: what shows that the candidate is slower is then the
    first edge above it, since the baseline has nothing there, and what shows that it is as fast the last one below it.
    """
    edges = state.edges.copy()
    where = np.flatnonzero(rows)
    if where.size == 0:
        return edges
    histogram = state.histogram[where]
    samples = histogram.sum(axis=-1)
    tail = 1 - histogram.cumsum(axis=-1)[:, : _EDGES.size] / np.maximum(samples, 1)[:, None]
    shifted = policy.shifted_edge[where]
    inferior = policy.inferior_edge[where]
    inside = shifted < _EDGES.size
    excess = np.where(inside, _EDGES[np.where(inside, shifted, 0)] / _EDGES, np.inf)
    shortfall = _EDGES / _EDGES[inferior]
    median = np.abs(tail - 0.5) / 0.12
    extreme = np.abs(np.log(np.maximum(tail, 1e-9) / 0.05)) / np.log(2)
    first_above_median, first_above_extreme = (tail > 0.5).sum(axis=-1), (tail > 0.05).sum(axis=-1)
    choices = (
        (median, excess, MEDIAN_SAMPLES, first_above_median),
        (extreme, excess, TAIL_SAMPLES, first_above_extreme),
        (median, shortfall, MEDIAN_SAMPLES, np.where(first_above_median > 0, first_above_median - 1, BELOW)),
    )
    for kind, (distance, misfit, needed, otherwise) in enumerate(choices):
        relative = misfit / misfit.min(axis=-1, keepdims=True) - 1
        near = distance <= 1
        cost = np.where(near, distance + relative / _MISFIT, np.inf)
        chosen = np.where(near.any(axis=-1), cost.argmin(axis=-1), np.minimum(otherwise, _EDGES.size - 1))
        edges[where, kind] = np.where(samples >= needed, chosen, UNKNOWN)
    return edges
