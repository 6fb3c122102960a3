"""Where a rollout goes from here: one pure function over states and events, and the weight that a state asks for.

Context: peers spread these rules over controllers and callbacks, and abort is where their bugs live. Choice: every
(state, event) pair has one answer here, printed as a table in tests/golden/lifecycle.txt, so that a change of
behaviour is a changed cell. Consequence: a pair that makes no sense is an error that carries both, never a guess.
"""

import dataclasses
import datetime as dt
import re

from controlplane.errors import ConflictError
from controlplane.rollout.model import (
    FULL_WEIGHT_BP,
    NO_STEP,
    PROBE_WEIGHT_BP,
    Abort,
    Acked,
    Advance,
    Baking,
    Breach,
    Command,
    DeadlinePassed,
    Event,
    Nacked,
    Pause,
    PauseCause,
    Paused,
    Plan,
    PrepareTimedOut,
    Preparing,
    Promote,
    Promoted,
    Question,
    Ready,
    Resume,
    RollbackCause,
    RolledBack,
    RollingBack,
    Shifting,
    State,
    Supersede,
    Suspicion,
    TelemetryLost,
    Undo,
)


class IllegalTransitionError(ConflictError):
    """The event makes no sense in this state; nothing changed."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"cannot {_verb(event)} a rollout that is {describe(state)}")
        self.state = state
        self.event = event


def advance(plan: Plan, state: State, event: Event, *, now: dt.datetime) -> State:
    """Return the state that *event* leads to.

    Raises:
        IllegalTransitionError: The pair makes no sense.
    """
    match state:
        case Preparing():
            return _from_preparing(state, event, now)
        case Shifting():
            return _from_shifting(plan, state, event, now)
        case Baking():
            return _from_baking(plan, state, event, now)
        case Paused():
            return _from_paused(plan, state, event, now)
        case RollingBack():
            return _from_rolling_back(state, event, now)
        case Promoted() | RolledBack():
            raise IllegalTransitionError(state, event)


def weight_bp(plan: Plan, state: State) -> int | None:
    """Return the candidate's weight in *state*; None while the service's own split still stands untouched."""
    match state:
        case Preparing() | Paused(step=-1):
            return None
        case Shifting(probing=True) | Baking(probing=True) | Paused(probing=True):
            return PROBE_WEIGHT_BP
        case Shifting(step=step) | Baking(step=step) | Paused(step=step):
            return plan.steps[step].weight_bp
        case Promoted():
            return FULL_WEIGHT_BP
        case RollingBack() | RolledBack():
            return 0


def adds_traffic(plan: Plan, before: State, after: State) -> bool:
    """Whether the candidate has more in *after* than in *before*: what a freeze forbids, whoever asks for it."""
    return (weight_bp(plan, after) or 0) > (weight_bp(plan, before) or 0)


def carries_traffic(state: State) -> bool:
    """Whether the candidate may be serving users now, so that the judge must watch."""
    match state:
        case Baking():
            return True
        case Shifting(came_from=step) | Paused(step=step):
            return step != NO_STEP
        case _:
            return False


def state_name(state: State) -> str:
    """Return a state's name as programs read it: ``rolling_back``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(state).__name__).lower()


def describe(state: State) -> str:
    """Say in two or three words where a rollout stands."""
    match state:
        case Preparing():
            return "preparing"
        case Shifting():
            return "shifting"
        case Baking(probing=True):
            return "probing"
        case Baking():
            return "baking"
        case Paused(cause=cause):
            return f"paused ({cause.value.replace('_', ' ')})"
        case RollingBack():
            return "rolling back"
        case Promoted():
            return "promoted"
        case RolledBack():
            return "rolled back"


def _from_preparing(state: Preparing, event: Event, now: dt.datetime) -> State:
    match event:
        case Ready():
            return Shifting(step=0, since=now, came_from=NO_STEP)
        case PrepareTimedOut(words=words):
            return RolledBack(at=now, cause=RollbackCause.NEVER_READY, words=words)
        case Abort() | Supersede():
            # Nothing was moved yet, so there is nothing to take back, and nothing to undo.
            return RolledBack(at=now, cause=_cause(event), words=_said(event))
        case Nacked(words=words):
            return Paused(NO_STEP, now, PauseCause.NACK, words, next_step=0)
        case Pause():
            return Paused(NO_STEP, now, PauseCause.OPERATOR, _said(event), next_step=0)
        case DeadlinePassed():
            return Paused(NO_STEP, now, PauseCause.INCONCLUSIVE, _deadline_words(), next_step=0)
        case Breach(words=words):
            # Its pictures, which can be compared before it has any traffic: there is nothing to take back.
            return RolledBack(at=now, cause=RollbackCause.SLO_BREACH, words=words)
        case Question(words=words):
            return Paused(NO_STEP, now, PauseCause.BREACH, words, next_step=0)
        case _:
            raise IllegalTransitionError(state, event)


def _from_shifting(plan: Plan, state: Shifting, event: Event, now: dt.datetime) -> State:
    match event:
        case Acked() if plan.direct:
            return Promoted(now, "every Envoy acknowledged")
        case Acked():
            return Baking(state.step, now, probing=state.probing)
        case Nacked(words=words):
            # Envoy still serves what it served before: say so by standing there.
            return _stand(state, now, PauseCause.NACK, words, probing=state.came_probing)
        case DeadlinePassed():
            return _stand(state, now, PauseCause.INCONCLUSIVE, _deadline_words(), probing=_ever_probing(state))
        case Question(words=words) if state.came_from != NO_STEP:
            return _stand(state, now, PauseCause.BREACH, words, probing=_ever_probing(state))
        case TelemetryLost(words=words) if state.came_from != NO_STEP:
            return _stand(state, now, PauseCause.TELEMETRY_LOST, words, probing=_ever_probing(state))
        case Pause() if not plan.direct:  # moments, and a pause would hand it to the judge
            return Paused(state.step, now, PauseCause.OPERATOR, _said(event), state.step, probing=state.probing)
        case Breach(words=words):
            return RollingBack(now, RollbackCause.SLO_BREACH, words)
        case Abort() | Undo() | Supersede():
            return RollingBack(now, _cause(event), _said(event))
        case Suspicion() if _can_probe(plan, state.came_from, probing=state.probing):
            return Shifting(state.step, now, came_from=state.came_from, probing=True)
        case _:
            raise IllegalTransitionError(state, event)


def _from_baking(plan: Plan, state: Baking, event: Event, now: dt.datetime) -> State:
    match event:
        case Advance(words=words):
            if state.probing:
                return Shifting(state.step, now, came_from=state.step, came_probing=True)
            if plan.steps[state.step].pause:
                return Paused(state.step, now, PauseCause.GATE, words, next_step=state.step + 1)
            return _go_to(plan, state.step + 1, state.step, now, words)
        case Promote():
            if state.probing:
                return Shifting(state.step, now, came_from=state.step, came_probing=True)
            return _go_to(plan, _promoted_step(plan, state.step + 1, event), state.step, now, _said(event))
        case Breach(words=words):
            return RollingBack(now, RollbackCause.SLO_BREACH, words)
        case Abort() | Undo() | Supersede():
            return RollingBack(now, _cause(event), _said(event))
        case Suspicion() if _can_probe(plan, state.step, probing=state.probing):
            return Shifting(state.step, now, came_from=state.step, probing=True)
        case Nacked(words=words):
            return Paused(state.step, now, PauseCause.NACK, words, state.step, probing=state.probing)
        case DeadlinePassed():
            words = _deadline_words()
            return Paused(state.step, now, PauseCause.INCONCLUSIVE, words, state.step, probing=state.probing)
        case Question(words=words):
            return Paused(state.step, now, PauseCause.BREACH, words, state.step, probing=state.probing)
        case TelemetryLost(words=words):
            return Paused(state.step, now, PauseCause.TELEMETRY_LOST, words, state.step, probing=state.probing)
        case Pause():
            return Paused(state.step, now, PauseCause.OPERATOR, _said(event), state.step, probing=state.probing)
        case _:
            raise IllegalTransitionError(state, event)


def _from_paused(plan: Plan, state: Paused, event: Event, now: dt.datetime) -> State:
    match event:
        case Resume() if state.step == NO_STEP:
            return Preparing(now)
        case Resume():
            if state.probing:
                return Shifting(state.step, now, came_from=state.step, probing=True, came_probing=True)
            return _go_to(plan, state.next_step, state.step, now, _said(event))
        case Promote() if state.step != NO_STEP:
            after = max(state.next_step, state.step + 1)
            return _go_to(plan, _promoted_step(plan, after, event), state.step, now, _said(event))
        case Breach(words=words) if state.step != NO_STEP:
            return RollingBack(now, RollbackCause.SLO_BREACH, words)
        case Abort() | Supersede() if state.step == NO_STEP:
            return RolledBack(now, _cause(event), _said(event))
        case Abort() | Undo() | Supersede() if state.step != NO_STEP:
            return RollingBack(now, _cause(event), _said(event))
        case Suspicion() if _can_probe(plan, state.step, probing=state.probing):
            # Half goes back at once, but the pause stays somebody's to end.
            return dataclasses.replace(state, probing=True)
        case Advance() if state.probing:
            return dataclasses.replace(state, probing=False)
        case Question(words=words) if state.step != NO_STEP:
            return dataclasses.replace(state, cause=PauseCause.BREACH, words=words)
        case Nacked(words=words):
            return dataclasses.replace(state, cause=PauseCause.NACK, words=words)
        case _:
            raise IllegalTransitionError(state, event)


def _from_rolling_back(state: RollingBack, event: Event, now: dt.datetime) -> State:
    match event:
        case Acked():
            return RolledBack(now, state.cause, state.words)
        case Nacked() | Abort() | Undo() | Supersede() | Breach():
            return state  # already retreating; zero stays published
        case _:
            raise IllegalTransitionError(state, event)


def _stand(state: Shifting, now: dt.datetime, cause: PauseCause, words: str, *, probing: bool) -> Paused:
    return Paused(state.came_from, now, cause, words, next_step=state.step, probing=probing)


def _ever_probing(state: Shifting) -> bool:
    """Whether half was given back before or after this shift: who stops in between must not give it out again."""
    return state.probing or state.came_probing


def _go_to(plan: Plan, step: int, came_from: int, now: dt.datetime, words: str) -> State:
    if step >= len(plan.steps):
        return Promoted(now, words)
    return Shifting(step, now, came_from=came_from)


def _promoted_step(plan: Plan, following: int, event: Promote) -> int:
    return max(following, len(plan.steps) - 1) if event.full else following


def _can_probe(plan: Plan, step: int, *, probing: bool) -> bool:
    return step != NO_STEP and plan.is_last(step) and not probing


def _deadline_words() -> str:
    return "the plan's deadline passed before there was enough evidence; resume, promote or abort"


def _said(event: Command | Supersede) -> str:
    words = f"{event.by}: {event.why}" if event.why else event.by
    return f"superseded by {event.successor} ({words})" if isinstance(event, Supersede) else words


def _cause(event: Abort | Undo | Supersede) -> RollbackCause:
    match event:
        case Abort():
            return RollbackCause.ABORTED
        case Undo():
            return RollbackCause.UNDONE
        case Supersede():
            return RollbackCause.SUPERSEDED


def _verb(event: Event) -> str:
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__).strip()
    return words if isinstance(event, Command | Supersede) else f"apply '{words}' to"
