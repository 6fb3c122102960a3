"""What a rollout is made of: the plan, the states it can be in and the events that move it.

A state holds exactly the facts that are true in it; the rules that lead from one to the next live in `lifecycle`.
"""

import dataclasses
import datetime as dt
import enum
from typing import TypeAlias

from controlplane.errors import InvalidInputError

FULL_WEIGHT_BP = 10_000
PROBE_WEIGHT_BP = 5_000
"""What the candidate keeps while a breach at 100 % is compared with the old version side by side (judge.md 2.2)."""

NO_STEP = -1
"""The place before the first step: the candidate gets nothing."""


# -- the plan --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One step: the candidate's weight, how long it is held at least once live, and whether it ends at a gate.

    *quality* says whether it waits, before its traffic, for a verdict on the candidate's pictures. None: the first one
    does, where the service has an objective about them.
    """

    weight_bp: int
    hold: dt.timedelta = dt.timedelta(seconds=30)
    pause: bool = False
    quality: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The way from nothing to everything.

    *deadline* bounds the wait for evidence: when it passes the rollout is inconclusive and pauses. *prepare_timeout*
    bounds the wait for the candidate's first healthy worker. A *direct* plan is the way back of an undo: one step that
    ends the rollout once every Envoy acknowledged it, without a bake and without a judge.
    """

    steps: tuple[Step, ...]
    deadline: dt.timedelta = dt.timedelta(hours=2)
    prepare_timeout: dt.timedelta = dt.timedelta(minutes=5)
    direct: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= 50:
            raise InvalidInputError("plan.steps", f"has {len(self.steps)} steps", "use 1 to 50")
        if self.direct and len(self.steps) > 1:
            raise InvalidInputError("plan.direct", f"has {len(self.steps)} steps", "give it one, of 100 %")
        previous = 0
        for number, step in enumerate(self.steps, start=1):
            field = f"plan.steps[{number}]"
            if not 1 <= step.weight_bp <= FULL_WEIGHT_BP:
                raise InvalidInputError(
                    f"{field}.weight", f"{step.weight_bp / 100:g} % is out of range", "use 0.01 % to 100 %"
                )
            if step.weight_bp <= previous:
                raise InvalidInputError(
                    f"{field}.weight",
                    f"{step.weight_bp / 100:g} % does not grow",
                    f"use more than {previous / 100:g} %",
                )
            if not dt.timedelta(0) <= step.hold <= dt.timedelta(days=7):
                raise InvalidInputError(f"{field}.hold", f"{step.hold} is out of range", "use 0 s to 7 days")
            previous = step.weight_bp
        if previous != FULL_WEIGHT_BP:
            raise InvalidInputError("plan.steps", f"ends at {previous / 100:g} %", "let the last step be 100 %")
        for name, span in (("deadline", self.deadline), ("prepare_timeout", self.prepare_timeout)):
            if not dt.timedelta(seconds=1) <= span <= dt.timedelta(days=30):
                raise InvalidInputError(f"plan.{name}", f"{span} is out of range", "use 1 s to 30 days")

    def is_last(self, step: int) -> bool:
        """Whether *step* (an index) is the one at 100 %."""
        return step == len(self.steps) - 1


# -- states ----------------------------------------------------------------------------------------------------------


class PauseCause(enum.Enum):
    """Why a rollout stands still although it has not ended."""

    OPERATOR = "operator"
    GATE = "gate"
    NACK = "nack"
    INCONCLUSIVE = "inconclusive"
    TELEMETRY_LOST = "telemetry_lost"
    BREACH = "breach"


class RollbackCause(enum.Enum):
    """Why a rollout gave all traffic back."""

    SLO_BREACH = "slo_breach"
    ABORTED = "aborted"
    NEVER_READY = "never_ready"
    UNDONE = "undone"
    SUPERSEDED = "superseded"
    """A newer version took its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Preparing:
    """The candidate's workers are known to the fleet, but not yet healthy everywhere."""

    since: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Shifting:
    """The weight of *step* is published and not yet acknowledged by every Envoy.

    *came_from* is the step whose weight the fleet ran before (*came_probing*: half of it given back), so that a refusal
    can leave traffic as it is.
    """

    step: int
    since: dt.datetime
    came_from: int
    probing: bool = False
    came_probing: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Baking:
    """Every Envoy runs the weight of *step*; evidence gathers since *since*."""

    step: int
    since: dt.datetime
    probing: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Paused:
    """Stands at *step* (or `NO_STEP`) until someone resumes and shifts to *next_step*; the judge watches on."""

    step: int
    since: dt.datetime
    cause: PauseCause
    words: str
    next_step: int
    probing: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RollingBack:
    """Zero is published for the candidate and not yet acknowledged by every Envoy."""

    since: dt.datetime
    cause: RollbackCause
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Promoted:
    """The candidate has all traffic and is now the service's version. Final."""

    at: dt.datetime
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class RolledBack:
    """The old version has all traffic again. Final."""

    at: dt.datetime
    cause: RollbackCause
    words: str


State: TypeAlias = Preparing | Shifting | Baking | Paused | RollingBack | Promoted | RolledBack
STATES: tuple[type[State], ...] = (Preparing, Shifting, Baking, Paused, RollingBack, Promoted, RolledBack)


def is_final(state: State) -> bool:
    """Whether nothing can move the rollout any more."""
    return isinstance(state, Promoted | RolledBack)


# -- events ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """Every connected Envoy knows the candidate's cluster and reports a healthy worker in it."""


@dataclasses.dataclass(frozen=True, slots=True)
class PrepareTimedOut:
    """No healthy worker of the candidate was seen in time; *words* say what was seen."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Acked:
    """Every connected Envoy runs what the rollout's state asks for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Nacked:
    """An Envoy refused the configuration; *words* are its own, with its name."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Advance:
    """The judge has enough evidence for the next step."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Breach:
    """The judge has proof that the candidate breaks an objective."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Suspicion:
    """At 100 % an objective is broken, and only a comparison can tell whether the candidate did it."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """An objective is broken whose breach a person decides about."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The plan's deadline came before the evidence."""


@dataclasses.dataclass(frozen=True, slots=True)
class TelemetryLost:
    """Nothing was heard from the fleet for so long that a person must look."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """An engineer stops the rollout where it is."""

    by: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Resume:
    """An engineer lets it go on."""

    by: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Promote:
    """An engineer takes the next step, or (*full*) the last one, without waiting for the judge."""

    by: str
    why: str
    full: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Abort:
    """An engineer gives all traffic back."""

    by: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Undo:
    """An engineer takes back what the rollout has moved: as `Abort`, but said of the version, which is remembered."""

    by: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Supersede:
    """A newer version is to take the candidate's place, in the rollout *successor*, once all traffic is back."""

    by: str
    why: str
    successor: str


Command: TypeAlias = Pause | Resume | Promote | Abort | Undo
Event: TypeAlias = (
    Ready
    | PrepareTimedOut
    | Acked
    | Nacked
    | Advance
    | Breach
    | Suspicion
    | Question
    | DeadlinePassed
    | TelemetryLost
    | Supersede
    | Command
)
EVENTS: tuple[type[Event], ...] = (
    Ready, PrepareTimedOut, Acked, Nacked, Advance, Breach, Suspicion, Question, DeadlinePassed, TelemetryLost,
    Pause, Resume, Promote, Abort, Undo, Supersede,
)  # fmt: skip
