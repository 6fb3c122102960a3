"""How often somebody may try to log in: failures are counted per address and per key that is tried.

Keys cannot be guessed; the limit keeps those who try all the same from costing a look into the database each time. What
is remembered is bounded: whoever failed longest ago is forgotten first.
"""

import collections
import dataclasses
import datetime as dt
from typing import Final

from controlplane.clock import Clock
from controlplane.errors import TooManyError

WINDOW: Final = dt.timedelta(minutes=1)
MAX_FAILURES: Final = 10
MAX_REMEMBERED: Final = 10_000


@dataclasses.dataclass(slots=True, kw_only=True)
class Attempts:
    """Counts failures within `WINDOW`."""

    clock: Clock
    _failures: "collections.OrderedDict[str, collections.deque[float]]" = dataclasses.field(
        default_factory=collections.OrderedDict
    )

    def check(self, *whose: str) -> None:
        """Refuse whoever failed too often of late.

        Raises:
            TooManyError: One of *whose* did.
        """
        for each in whose:
            if len(self._recent(each)) >= MAX_FAILURES:
                raise TooManyError(f"{MAX_FAILURES} log-ins failed within a minute; wait one, then try again")

    def failed(self, *whose: str) -> None:
        """Count a failure to each of *whose*."""
        for each in whose:
            recent = self._recent(each)
            recent.append(self.clock.steady())
            self._failures[each] = recent
            self._failures.move_to_end(each)
            if len(self._failures) > MAX_REMEMBERED:
                self._failures.popitem(last=False)

    def _recent(self, whose: str) -> "collections.deque[float]":
        recent = self._failures.get(whose, collections.deque[float](maxlen=MAX_FAILURES))
        while recent and self.clock.steady() - recent[0] >= WINDOW.total_seconds():
            recent.popleft()
        return recent
