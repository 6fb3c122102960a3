"""What the judge says now of seconds that it has judged before, under the same policy or another one. Pure.

Under the same policy every decision and every sentence comes out as recorded. Under another one the first different
decision is exact, and nothing after it: the record goes on with the weights that were really set.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Final

from controlplane.errors import ConflictError
from controlplane.rollout.judge import Judgement, JudgeState, Policy, Verdict, judge, observe_history, peek_hard_stop
from controlplane.rollout.recorded import JudgedTick, Look
from controlplane.rollout.verdict import Exposure

UNSAID: Final = "this second, not yet over, shows nothing"
"""In the place of a sentence, where only the record's policy saw enough in an unfinished second."""

CAVEAT: Final = (
    "from there on the weights are those of the recording, not those that this policy would have set: what follows says"
    " what the judge makes of the recorded traffic, not what would have happened"
)


class IncompleteRecordError(ConflictError):
    """Seconds that the judge took in are not recorded, or not any more, so nothing after them can be judged again."""

    def __init__(self, rollout: str) -> None:
        super().__init__(
            f"the record of {rollout} has a hole, so it cannot be replayed: seconds older than"
            " HUESHIFT_TELEMETRY_RETENTION are gone (raise it for later rollouts), and earlier releases recorded none"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """A verdict with its sentence; *decision* is the verdict where it moves the rollout, else HOLD."""

    verdict: Verdict
    words: str
    decision: Verdict


@dataclasses.dataclass(frozen=True, slots=True)
class ReplayedTick:
    """One judged second: what was said then, and what is said now. *partial*: it was not over yet."""

    tick: int
    exposure: Exposure
    partial: bool
    recorded: Said
    replayed: Said

    @property
    def is_same(self) -> bool:
        """Whether verdict and sentence are the recorded ones."""
        return self.recorded == self.replayed

    @property
    def deviates(self) -> bool:
        """Whether the rollout would have moved otherwise."""
        return self.recorded.decision is not self.replayed.decision


class Replay:
    """Judges a rollout's record again, a part at a time, oldest first."""

    def __init__(self, rollout: str, policy: Policy) -> None:
        """Begin before the first second. *rollout* is what errors call it."""
        self._rollout = rollout
        self._policy = policy
        self._state = JudgeState.initial(policy)
        self._previous: int | None = None

    def take(self, record: Iterable[JudgedTick]) -> list[ReplayedTick]:
        """Judge the next part of the record; history is taken in and gives nothing.

        Raises:
            IncompleteRecordError: It does not follow on the part before.
        """
        return [replayed for tick in record if (replayed := self._take(tick)) is not None]

    def _take(self, tick: JudgedTick) -> ReplayedTick | None:
        if tick.previous != self._previous:
            raise IncompleteRecordError(self._rollout)
        if tick.look is not Look.PARTIAL:
            self._previous = tick.tick
        if tick.exposure is None:
            self._state = observe_history(self._state, tick.window, self._policy)
            return None
        judgement = self._judge(tick, tick.exposure)
        return ReplayedTick(
            tick=tick.tick,
            exposure=tick.exposure,
            partial=tick.look is Look.PARTIAL,
            recorded=_said(tick, tick.verdict, tick.words),
            replayed=_said(tick, judgement.verdict, judgement.reason),
        )

    def _judge(self, tick: JudgedTick, exposure: Exposure) -> Judgement:
        if tick.look is Look.PARTIAL:
            peeked = peek_hard_stop(self._state, tick.window, self._policy, baseline=exposure.baseline)
            return peeked or Judgement(Verdict.HOLD, UNSAID)
        self._state, judgement = judge(self._state, tick.window, exposure, self._policy)
        return judgement


def _said(tick: JudgedTick, verdict: Verdict, words: str) -> Said:
    return Said(verdict, words, verdict if verdict in tick.heeded else Verdict.HOLD)


# -- summing up --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """A decision that moves a rollout, and where it stood then."""

    tick: int
    exposure: Exposure
    verdict: Verdict
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a replay comes to. *deviation* is the first different decision; *otherwise* counts different sentences."""

    judged: int
    deviation: ReplayedTick | None
    otherwise: int
    recorded: tuple[Move, ...]
    replayed: tuple[Move, ...]

    @property
    def is_reproduced(self) -> bool:
        """Whether everything came out as recorded, word for word."""
        return self.deviation is None and not self.otherwise


def sum_up(ticks: Sequence[ReplayedTick]) -> Outcome:
    """Find where the decisions part, and list both."""
    return Outcome(
        judged=len(ticks),
        deviation=next((tick for tick in ticks if tick.deviates), None),
        otherwise=sum(not tick.is_same for tick in ticks),
        recorded=_moves((tick, tick.recorded) for tick in ticks),
        replayed=_moves((tick, tick.replayed) for tick in ticks),
    )


def _moves(said: Iterable[tuple[ReplayedTick, Said]]) -> tuple[Move, ...]:
    """List the decisions up to a rollback; one that is repeated because the weight did not follow counts once."""
    moves: list[Move] = []
    for tick, each in said:
        if each.decision is Verdict.HOLD:
            continue
        if moves and (moves[-1].verdict, moves[-1].exposure.weight_bp) == (each.decision, tick.exposure.weight_bp):
            continue
        moves.append(Move(tick.tick, tick.exposure, each.decision, each.words))
        if each.decision is Verdict.ROLLBACK:
            break
    return tuple(moves)


def tell(outcome: Outcome, *, since: int) -> tuple[str, ...]:
    """Say in a few sentences what a replay comes to; moments are seconds after the tick *since*."""
    deviation = outcome.deviation
    if not outcome.judged:
        return ("there is no decision to replay: the candidate has not carried traffic",)
    recorded = f"recorded: {_tell_moves(outcome.recorded, since)}"
    if deviation is None:
        words = "every decision comes out as recorded"
        if outcome.is_reproduced:
            return f"{words}, and so does every sentence", recorded
        return f"{words}; {outcome.otherwise} of {outcome.judged} seconds are judged in other words", recorded
    place = f"after {deviation.tick - since} s, at {_weight(deviation.exposure)}"
    both = f"recorded {_tell_said(deviation.recorded)}, replayed {_tell_said(deviation.replayed)}"
    replayed = f"replayed: {_tell_moves(outcome.replayed, since)}"
    return f"the first different decision comes {place}: {both}", recorded, replayed, CAVEAT


def changes(ticks: Sequence[ReplayedTick]) -> list[ReplayedTick]:
    """Return the seconds in which something is new: the weight, a verdict, or what a sentence is about."""
    keep: list[ReplayedTick] = []
    for before, tick in itertools.pairwise((None, *ticks)):
        if tick is not None and (before is None or tick.deviates or _gist(before) != _gist(tick)):
            keep.append(tick)
    return keep


_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def _gist(tick: ReplayedTick) -> tuple[object, ...]:
    """What a second is about: its sentences without their numbers."""
    said = [(each.verdict, _NUMBER.sub("#", each.words)) for each in (tick.recorded, tick.replayed)]
    return tick.exposure.weight_bp, *said


def _tell_moves(moves: Sequence[Move], since: int) -> str:
    if not moves:
        return "held all the time"
    last = moves[-1]
    words = f" ({last.words})" if last.verdict in {Verdict.ROLLBACK, Verdict.ASK} else ""
    return ", ".join(f"{_tell_move(move)} after {move.tick - since} s" for move in moves) + words


def _tell_move(move: Move) -> str:
    at = move.exposure
    match move.verdict:
        case Verdict.ROLLBACK:
            return f"rolled back at {_weight(at)}"
        case Verdict.ASK:
            return f"paused to ask at {_weight(at)}"
        case Verdict.PROBE:
            return f"half given back at {_weight(at)}"
        case Verdict.ADVANCE if at.probing:
            return "the other half taken again"
        case Verdict.ADVANCE if at.next_weight_bp is None:
            return f"promoted at {_weight(at)}"
        case Verdict.ADVANCE:
            return f"advanced from {_weight(at)}"
        case Verdict.HOLD:
            return f"held at {_weight(at)}"


def _tell_said(said: Said) -> str:
    return f"{said.decision.name.lower()} ({said.words})"


def _weight(exposure: Exposure) -> str:
    return f"{exposure.weight_bp / 100:g} %"
