"""The judge as the controller sees it: one tick in, one judgement with its reasons out.

Rollouts can be judged one by one or, cheaper, all at once; both go through `engine`, as the simulator does.
"""

from collections.abc import Sequence

from controlplane.rollout import engine
from controlplane.rollout.counting import batch_of
from controlplane.rollout.explain import dead_sentence, explain
from controlplane.rollout.policy import BatchPolicy, Policy
from controlplane.rollout.processes import ERROR
from controlplane.rollout.state import JudgeState, together
from controlplane.rollout.verdict import (
    BatchExposure,
    Exposure,
    Judgement,
    ObjectiveEvidence,
    Verdict,
)
from controlplane.rollout.windows import TickWindow

__all__ = [
    "Exposure",
    "JudgeState",
    "Judgement",
    "ObjectiveEvidence",
    "Policy",
    "Verdict",
    "judge",
    "judge_all",
    "observe_history",
    "peek_hard_stop",
]


def observe_history(state: JudgeState, tick: TickWindow, policy: Policy) -> JudgeState:
    """Watch the baseline in a tick before the rollout starts: how fast, how bursty, how much traffic."""
    memory = together([state])
    batch_policy = BatchPolicy.of([policy], objectives=memory.objectives)
    return JudgeState(engine.observe_batch(memory, batch_of([tick], [policy]), batch_policy))


def judge(state: JudgeState, window: TickWindow, exposure: Exposure, policy: Policy) -> tuple[JudgeState, Judgement]:
    """Take in one tick of one rollout and say what the evidence allows.

    A tick that is not newer than the last one changes nothing and holds. Data that did arrive may roll back even
    in a tick with a gap; nothing advances in one.
    """
    (result,) = judge_all([state], [window], [exposure], [policy])
    return result


def judge_all(
    states: Sequence[JudgeState],
    windows: Sequence[TickWindow],
    exposures: Sequence[Exposure],
    policies: Sequence[Policy],
) -> list[tuple[JudgeState, Judgement]]:
    """Do what `judge` does for many rollouts at once; the four sequences are of equal length."""
    if not states:
        return []
    memory = together(states)
    batch_policy = BatchPolicy.of(policies, objectives=memory.objectives)
    new, judged = engine.judge_batch(
        memory,
        batch_of(windows, policies),
        BatchExposure.of(exposures),
        batch_policy,
    )
    judgements = explain(new, judged, windows, exposures, policies, batch_policy)
    return [(JudgeState(new, row), judgement) for row, judgement in enumerate(judgements)]


def peek_hard_stop(state: JudgeState, partial: TickWindow, policy: Policy, *, baseline: str = "v1") -> Judgement | None:
    """Say whether the unfinished tick already shows that nearly every request fails while the baseline works.

    Args:
        state: As of the last judged tick; it is not changed.
        partial: Everything since that tick; its number is the unfinished tick's.
        policy: As for `judge`.
        baseline: What the reason calls the version that still works.
    """
    memory = together([state])
    batch_policy = BatchPolicy.of([policy], objectives=memory.objectives)
    if not engine.dead_batch(memory.widened(policy.objectives), batch_of([partial], [policy]), batch_policy)[0]:
        return None
    reason = dead_sentence(partial, ERROR, policy, 1 / policy.hard_stop_alpha, baseline)
    return Judgement(Verdict.ASK if policy.error.asks else Verdict.ROLLBACK, reason)
