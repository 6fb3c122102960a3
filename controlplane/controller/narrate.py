"""One sentence per transition, for history, events and people."""

from controlplane.ports import Rollout
from controlplane.rollout.lifecycle import describe
from controlplane.rollout.model import (
    NO_STEP,
    Abort,
    Acked,
    Advance,
    Baking,
    Breach,
    DeadlinePassed,
    Event,
    Nacked,
    Pause,
    Paused,
    PrepareTimedOut,
    Promote,
    Promoted,
    Question,
    Ready,
    Resume,
    RollingBack,
    Shifting,
    State,
    Supersede,
    Suspicion,
    TelemetryLost,
    Undo,
)


def actor(event: Event) -> str:
    """Return who caused *event*: a person's key, or the controller itself."""
    return event.by if isinstance(event, Pause | Resume | Promote | Abort | Undo | Supersede) else "hueshift"


def sentence(rollout: Rollout, event: Event, after: State) -> str:
    """Say what happened and what it leads to."""
    return f"{_cause(rollout, event)}; {_effect(rollout, after)}"


def percent(weight_bp: int) -> str:
    """Write basis points as people read them: ``5 %``, ``0.01 %``."""
    return f"{weight_bp / 100:g} %"


def _cause(rollout: Rollout, event: Event) -> str:
    match event:
        case Ready():
            return f"{rollout.candidate} is healthy everywhere"
        case Acked():
            return "every Envoy acknowledged"
        case Nacked(words=words) | PrepareTimedOut(words=words) | TelemetryLost(words=words):
            return words
        case Advance(words=words) | Breach(words=words) | Suspicion(words=words) | Question(words=words):
            return words
        case DeadlinePassed():
            return "not enough evidence before the plan's deadline"
        case Supersede(by=by, why=why, successor=successor):
            return f"{by} asked for {successor} in its place" + (f" ({why})" if why else "")
        case (
            Pause(by=by, why=why)
            | Resume(by=by, why=why)
            | Promote(by=by, why=why)
            | Abort(by=by, why=why)
            | Undo(by=by, why=why)
        ):
            verb = type(event).__name__.lower()
            return f"{by} asked to {verb}" + (f" ({why})" if why else "")


def _effect(rollout: Rollout, after: State) -> str:
    match after:
        case Shifting(probing=True):
            return f"half goes back to {rollout.baseline} to compare them side by side"
        case Shifting(step=step):
            return f"shifting to step {step + 1} of {len(rollout.plan.steps)}, {_weight(rollout, step)}"
        case Baking(step=step):
            return f"{_weight(rollout, step)} is live"
        case Paused(step=step):
            return f"{describe(after)} at {_weight(rollout, step)}"
        case RollingBack():
            return f"all traffic goes back to {rollout.baseline}"
        case Promoted() if rollout.plan.direct:
            return f"all traffic is {rollout.candidate}'s again"
        case Promoted():
            return f"{rollout.candidate} is promoted"
        case _:
            return describe(after)


def _weight(rollout: Rollout, step: int) -> str:
    return "0 %" if step == NO_STEP else percent(rollout.plan.steps[step].weight_bp)
