"""What the judge remembers between ticks: a fixed number of values per rollout, kept in SQL as JSON.

Arrays with one row per rollout, so that one update serves all active rollouts, or thousands of simulated ones.
Python writes floats so that they read back bit by bit: a restart changes no evidence.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np

from controlplane.rollout.evidence import DISPERSIONS, GRID, MOMENTS
from controlplane.rollout.policy import Bools, Floats, Ints, Policy, Sampled, ShareObjective, start_cells
from controlplane.rollout.processes import BUILT_IN, layout
from controlplane.rollout.windows import BUCKETS

FORMAT: Final = 2
READABLE: Final = (1, FORMAT)
NEVER: Final = -(10**9)
"""A tick long before any other."""
UNKNOWN: Final = -1
MAX_OBJECTIVES: Final = 32
_PER_VERSION: Final = frozenset({"counted", "starts", "rate"})
"""Arrays whose second axis is as long as that of the two built-in objectives and counts something else."""
BELOW: Final = -2
"""In the place of an edge: more than half of the baseline's requests are faster than the first edge."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BatchState:
    """The memory of many rollouts; the first axis of each array counts them. Never changed in place."""

    tick: Ints
    """Last tick taken in; older or equal ones change nothing."""
    begun: Bools
    """The candidate has been judged at least once; before that only the baseline is watched."""
    stakes: Floats
    """Rollouts x processes x grid."""
    observed: Ints
    """Rollouts x processes: observations so far."""
    changes: Ints
    """Weight changes that were given a start weight."""

    hard: Floats
    """Rollouts x objectives: evidence that nearly every request of the candidate is bad."""
    hard_observed: Ints
    hard_baseline: Floats
    """Rollouts x objectives x (requests, bad): the baseline since the hard stop's evidence was last below 1."""

    seen: Floats
    """Rollouts x objectives x versions x (requests, bad) since the promotion evidence last restarted."""
    beside: Floats
    """The same since the candidate's breach began to show."""
    pair: Floats
    """Rollouts x objectives x versions x (requests, bad) not compared yet."""
    pair_latency: Floats
    """Rollouts x places of comparison x versions x (requests, slower than the edge) not compared yet."""
    pair_s: Ints
    """Ticks in that pair."""
    shifts: Floats
    """Rollouts x places of comparison x versions x (requests, slower than the edge) over the same ticks."""
    step_requests: Floats
    """The candidate's completed requests at this step."""
    baseline_bursts: Floats
    """Rollouts x objectives x (settled, older, recent ticks) x moments: how bursty the baseline is."""
    deflated: Floats
    """Rollouts x objectives x dispersions x (requests, bad): what `seen` of the candidate is worth."""
    bursts: Floats
    """Rollouts x objectives x moments: the candidate since the promotion evidence last restarted."""
    rate: Floats
    """Rollouts x (requests, seconds), fading out."""

    quiet_s: Floats
    """Seconds of telemetry at this step since the last breach."""
    held_s: Floats
    """Seconds of telemetry at this step."""
    last_breach: Ints
    """Rollouts x objectives: last tick in which the bound was breached."""
    breach_since: Ints
    """Rollouts x objectives: first tick of the breach that is on or was last."""
    baseline_hot: Ints
    """Rollouts x objectives: last tick in which the baseline was in trouble itself."""
    last_floor: Ints
    """Rollouts x objectives: last tick in which the share was surely above the floor."""
    asked: Bools
    """Rollouts x objectives: a person was asked about a breach; from then on it is theirs to decide."""
    probing: Bools
    probe_since: Ints
    """First tick of the probe that is on or was last."""
    vanished: Ints
    """Probes in which the breach vanished without the baseline having been in trouble."""

    edges: Ints
    """Rollouts x (median, 95th percentile, median for non-inferiority) of the baseline: edges, or one of the above."""
    frozen: Bools
    """The edges stay as they are."""
    histogram: Ints
    """Rollouts x buckets: the baseline's latency until the edges are frozen."""
    counted: Ints
    """Rollouts x versions: requests in flight that were already counted as slow."""
    starts: Ints
    """Rollouts x versions x cells: requests started in the last seconds."""
    starts_since: Ints
    """Tick since when starts are known without a gap."""

    @classmethod
    def initial(cls, policies: Sequence[Policy]) -> Self:
        """Begin without any memory."""
        rollouts = len(policies)
        objectives = max((policy.objectives for policy in policies), default=BUILT_IN)
        processes = layout(objectives).processes
        cells = max((start_cells(policy) for policy in policies), default=1)

        def zeros(*shape: int) -> Floats:
            return np.zeros((rollouts, *shape))

        def whole(*shape: int, value: int = 0) -> Ints:
            return np.full((rollouts, *shape), value, dtype=np.int64)

        def no() -> Bools:
            return np.zeros(rollouts, dtype=np.bool_)

        return cls(
            tick=whole(value=NEVER),
            begun=no(),
            stakes=zeros(processes, GRID),
            observed=whole(processes),
            changes=whole(),
            hard=zeros(objectives),
            hard_observed=whole(objectives),
            hard_baseline=zeros(objectives, 2),
            seen=zeros(objectives, 2, 2),
            beside=zeros(objectives, 2, 2),
            pair=zeros(objectives, 2, 2),
            pair_latency=zeros(3, 2, 2),
            pair_s=whole(),
            shifts=zeros(3, 2, 2),
            step_requests=zeros(),
            baseline_bursts=zeros(objectives, 3, MOMENTS),
            deflated=zeros(objectives, DISPERSIONS.size, 2),
            bursts=zeros(objectives, MOMENTS),
            rate=zeros(2),
            quiet_s=zeros(),
            held_s=zeros(),
            last_breach=whole(objectives, value=NEVER),
            breach_since=whole(objectives, value=NEVER),
            baseline_hot=whole(objectives, value=NEVER),
            last_floor=whole(objectives, value=NEVER),
            asked=np.zeros((rollouts, objectives), dtype=np.bool_),
            probing=no(),
            probe_since=whole(value=NEVER),
            vanished=whole(),
            edges=whole(3, value=UNKNOWN),
            frozen=no(),
            histogram=whole(BUCKETS),
            counted=whole(2),
            starts=whole(2, cells),
            starts_since=whole(value=NEVER),
        )

    def take(self, rows: Ints | Bools | slice) -> Self:
        """Keep the rollouts at *rows*."""
        return type(self)(**{name: getattr(self, name)[rows] for name in _FIELDS})

    @property
    def objectives(self) -> int:
        """Places for objectives."""
        return int(self.seen.shape[1])

    def widened(self, objectives: int) -> Self:
        """Give this memory places for at least so many *objectives*; what is new is empty."""
        missing = objectives - self.objectives
        if missing <= 0:
            return self
        empty = type(self).initial([_with_objectives(objectives)])
        columns = {}
        for name in _FIELDS:
            mine, theirs = getattr(self, name), getattr(empty, name)
            if name != "starts" and mine.shape[1:] != theirs.shape[1:]:
                rest = np.broadcast_to(theirs[:, mine.shape[1] :], (mine.shape[0], *theirs[0, mine.shape[1] :].shape))
                mine = np.concatenate((mine, rest), axis=1)
            columns[name] = mine
        return type(self)(**columns)

    @classmethod
    def stack(cls, states: Sequence[Self]) -> Self:
        """Put *states* one below the other; those with fewer objectives or cells for starts get empty ones."""
        cells = max(state.starts.shape[-1] for state in states)
        objectives = max(state.objectives for state in states)
        states = [state.widened(objectives) for state in states]
        columns = {name: [getattr(state, name) for state in states] for name in _FIELDS}
        columns["starts"] = [widen(starts, cells) for starts in columns["starts"]]
        return cls(**{name: np.concatenate(column) for name, column in columns.items()})

    def where(self, keep: Bools, other: Self) -> Self:
        """Take the rollouts marked by *keep* from here and the rest from *other*."""

        def choose(mine: Any, theirs: Any) -> Any:
            return np.where(keep.reshape(-1, *[1] * (mine.ndim - 1)), mine, theirs)

        return type(self)(**{name: choose(getattr(self, name), getattr(other, name)) for name in _FIELDS})


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(BatchState))


@functools.lru_cache(maxsize=16)
def _with_objectives(objectives: int) -> Policy:
    """Return some policy with so many objectives."""
    return Policy(shares=(ShareObjective("any", "bad", Sampled(), max_share=0.1),) * (objectives - BUILT_IN))


def widen(starts: Ints, cells: int) -> Ints:
    missing = cells - starts.shape[-1]
    return np.pad(starts, ((0, 0), (0, 0), (0, missing))) if missing > 0 else starts


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class JudgeState:
    """The memory of one rollout: a row of a batch."""

    batch: BatchState
    row: int = 0

    @classmethod
    def initial(cls, policy: Policy) -> Self:
        """Begin without any memory."""
        return cls(BatchState.initial([policy]))

    @property
    def last_tick(self) -> int | None:
        """The last tick taken in, None before the first."""
        tick = int(self.batch.tick[self.row])
        return None if tick == NEVER else tick

    def to_json(self) -> dict[str, object]:
        """Give plain lists and numbers that `from_json` turns back into exactly this state."""
        values: dict[str, object] = {"format": FORMAT}
        empty = BatchState.initial([_with_objectives(self.batch.objectives)])
        for name in _FIELDS:
            row = getattr(self.batch, name)[self.row]
            if name != "starts":
                values[name] = _shorten(row, getattr(empty, name)[0]) if row.ndim else row.item()
        values["starts"] = [_shorten(version, np.zeros_like(version)) for version in self.batch.starts[self.row]]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: *values* were written by another format of the judge, or are damaged.
        """
        if values.get("format") not in READABLE:
            raise ValueError(f"judge state has format {values.get('format')!r}; this judge reads {FORMAT}")
        if values["format"] == 1:
            values = _from_format_1(values)
        template = BatchState.initial([_with_objectives(_objectives_in(values))])
        arrays = {name: _read(name, values.get(name), getattr(template, name)) for name in _FIELDS}
        return cls(BatchState(**arrays))


def _from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read what the release before further objectives wrote."""
    try:
        pair = [*values["pair"], *[0.0] * 20]
        return {
            **values,
            "pair": pair[:8],
            "pair_latency": pair[8:20],
            "last_floor": [values["last_floor"]],
            "asked": [],
        }
    except (KeyError, TypeError) as exc:
        raise ValueError("judge state is damaged in pair") from exc


def _objectives_in(values: Mapping[str, Any]) -> int:
    """Say for how many objectives there must be places: JSON holds as many as differ from an empty memory."""
    smallest = BatchState.initial([Policy()])
    most = BUILT_IN
    for name in _FIELDS:
        shape = getattr(smallest, name).shape[1:]
        found = values.get(name)
        if len(shape) > 0 and shape[0] == BUILT_IN and name not in _PER_VERSION and isinstance(found, list):
            most = max(most, -(-len(found) // int(np.prod(shape[1:], dtype=np.int64))))
    stakes = values.get("stakes")
    while isinstance(stakes, list) and most < MAX_OBJECTIVES and layout(most).processes * GRID < len(stakes):
        most += 1
    return min(most, MAX_OBJECTIVES)


def together(states: Sequence[JudgeState]) -> BatchState:
    """Put *states* one below the other; free of charge if they came out of one batch in this order."""
    batch = states[0].batch
    if batch.tick.size == len(states) and all(
        state.batch is batch and state.row == row for row, state in enumerate(states)
    ):
        return batch
    return BatchState.stack([state.batch.take(slice(state.row, state.row + 1)) for state in states])


def _shorten(row: Any, empty: Any) -> list[Any]:
    """Drop what is as in an empty memory at the end, and write whole numbers short: most of it is mostly zero."""
    flat, blank = row.ravel(), empty.ravel()
    kept = np.flatnonzero(flat != blank)
    values = flat[: kept[-1] + 1 if kept.size else 0].tolist()
    return [
        int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
        for value in values
    ]


def _read(name: str, value: Any, template: Any) -> Any:
    """Give *value* the type and shape of *template*."""
    try:
        if template.ndim == 1:
            return np.array([float(value)] if template.dtype == np.float64 else [value], dtype=template.dtype)
        if name == "starts":
            cells = max(*(len(version) for version in value), 1)
            return np.array([[version + [0] * (cells - len(version)) for version in value]], dtype=np.int64)
        row = template.flatten()
        row[: len(value)] = value
        return row.reshape(template.shape)
    except (TypeError, ValueError, OverflowError) as exc:
        raise ValueError(f"judge state is damaged in {name}") from exc
