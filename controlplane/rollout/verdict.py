"""What goes into a judgement besides telemetry, and what comes out of it."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from controlplane.rollout.policy import Bools, Floats, Ints

FULL_BP: Final = 10_000


class Verdict(enum.IntEnum):
    """What the evidence allows."""

    HOLD = 0
    """Stay: not enough evidence, a shared incident or missing telemetry."""
    ADVANCE = 1
    """Go to the next weight; at the last step promote; during a probe go back to 100 %."""
    ROLLBACK = 2
    """The candidate breaches an objective or is worse than the baseline."""
    PROBE = 3
    """A breach at 100 %, where nothing can be compared: give half of the traffic back to the baseline."""
    ASK = 4
    """What would be a rollback, by an objective whose breach a person decides about."""


class Cause(enum.IntEnum):
    """What a verdict rests on; each has its sentence in `explain`."""

    REPEATED_TICK = 0
    NO_TELEMETRY = 1
    NO_TRAFFIC = 2
    MIN_HOLD = 3
    QUIET_TIME = 4
    TOO_LITTLE_EVIDENCE = 5
    NOT_COMPARED = 6
    SHARED_INCIDENT = 7
    UNDECIDED_BREACH = 8
    ALL_KEPT = 9
    BREACH_OVER = 10
    BREACH = 11
    WORSE = 12
    SLOWER = 13
    DEAD = 14
    TOO_WEAK = 15
    LONE_BREACH = 16
    NO_DATA = 17
    SUSPECT = 18


@dataclasses.dataclass(frozen=True, slots=True)
class Exposure:
    """What the controller knows about the rollout and the telemetry does not say."""

    weight_bp: int
    """The candidate's live weight: ACKed by all Envoys."""
    next_weight_bp: int | None
    """The next step's weight; None at the last step."""
    weight_changed: bool = False
    """This is the first tick of this weight."""
    min_hold_s: float = 30.0
    """Seconds the plan wants this weight to be held."""
    held_s: float = 0.0
    """Seconds since the weight became live."""
    probing: bool = False
    """The weight was taken back because of a PROBE."""
    baseline: str = "v1"
    """What the reasons call the version that the candidate is compared with."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchExposure:
    """The exposures of many rollouts as arrays."""

    weight: Floats
    """Fraction of 1, as is the next weight."""
    next_weight: Floats
    """Where an ADVANCE leads to; 1 at the last step."""
    last: Bools
    weight_changed: Bools
    min_hold_s: Floats
    held_s: Floats
    probing: Bools

    @classmethod
    def of(cls, exposures: Sequence[Exposure]) -> Self:
        """Lay *exposures* side by side."""
        following = [FULL_BP if each.next_weight_bp is None else each.next_weight_bp for each in exposures]
        return cls(
            weight=np.array([each.weight_bp for each in exposures]) / FULL_BP,
            next_weight=np.array(following) / FULL_BP,
            last=np.array([each.next_weight_bp is None for each in exposures]),
            weight_changed=np.array([each.weight_changed for each in exposures]),
            min_hold_s=np.array([each.min_hold_s for each in exposures], dtype=np.float64),
            held_s=np.array([each.held_s for each in exposures], dtype=np.float64),
            probing=np.array([each.probing for each in exposures]),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class BatchJudgement:
    """The verdicts on many rollouts, with what they rest on."""

    verdict: Ints
    cause: Ints
    objective: Ints
    """The objective the cause speaks of."""
    odds: Floats
    """Rollouts x processes: evidence against the candidate, as 1 : odds."""
    hard_odds: Floats
    """Rollouts x objectives."""
    worth: Floats
    """Rollouts x objectives x (requests, bad): the candidate's, as independent requests."""
    limit: Floats
    """Rollouts x objectives: below this the share of bad requests must be shown to be before the next step."""
    shown: Bools
    """Rollouts x objectives: it is shown."""


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectiveEvidence:
    """Where one objective stands, in measured values."""

    name: str
    """error_abs, error_rel, latency_abs or latency_rel; of a further objective its own name and abs or rel."""
    candidate: float | None
    """The candidate's share of bad requests; None without requests."""
    baseline: float | None
    """The baseline's in the same ticks."""
    bound: float
    """Absolute: the highest allowed share. Relative: the highest allowed ratio."""
    odds: float
    """Evidence of a breach: a healthy candidate shows this much at most once in so many rollouts."""
    still_needed: int | None
    """Requests that are still wanted before the next step, at the share seen so far; None: no number will do."""
    decides: str = ""
    """Why it decides nothing: ``muted``, or ``asked``, when a person was asked about its breach; "" where it does."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict that explains itself."""

    verdict: Verdict
    reason: str
    """One sentence with the measured values."""
    objectives: tuple[ObjectiveEvidence, ...] = ()
