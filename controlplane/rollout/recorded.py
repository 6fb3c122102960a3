"""What the judge was shown in a tick, and what it said: kept so that a rollout can be judged again later.

Context: how a tick was judged depends on the rollout's state at that moment, and a tick's counts may still change
afterwards (a control plane that restarts within a second adds to a tick that was judged). Choice: everything that went
into a judgement is recorded with it. Consequence: the record alone replays a rollout exactly, whatever became of the
telemetry, the service's clusters or the process since.
"""

import dataclasses
import enum

from controlplane.rollout.verdict import Exposure, Verdict
from controlplane.rollout.windows import TickWindow


class Look(enum.Enum):
    """How the judge looked at a tick."""

    HISTORY = "history"
    """Before the candidate carried traffic: it only learned what the baseline is like."""
    WHOLE = "whole"
    """It judged the tick."""
    PARTIAL = "partial"
    """It peeked at a tick that had not ended, and saw enough. A peek that decides nothing is not recorded."""


@dataclasses.dataclass(frozen=True, slots=True)
class JudgedTick:
    """One tick as the judge saw it.

    *previous* is the tick that it had taken in before, None for the first: where the two do not meet, some are missing.
    *heeded* are the verdicts that would have moved the rollout then; of history there is no *exposure* and no verdict.
    """

    previous: int | None
    window: TickWindow
    look: Look
    exposure: Exposure | None = None
    heeded: tuple[Verdict, ...] = ()
    verdict: Verdict = Verdict.HOLD
    words: str = ""
    odds: tuple[tuple[str, float], ...] = ()
    """What it had as evidence of a breach, per objective; for those who draw it, no part of a replay."""

    @property
    def tick(self) -> int:
        """The second's number since 1970."""
        return self.window.tick
