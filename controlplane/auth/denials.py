"""Writes down what was denied, without letting whoever is denied fill the database or keep it busy.

Attempts of one principal on one route in one minute are one row with a count. The first is written at once; then only
when their number has doubled, so that a flood of a million costs twenty writes. What a stopping process has not
written yet are repetitions of what it has: the row is there, its count is a lower bound.
"""

import dataclasses
import datetime as dt
from typing import Final

import structlog

from controlplane.auth.ports import AuditStore, Denial
from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError

log = structlog.get_logger(__name__)

KEPT: Final = dt.timedelta(days=90)
MAX_REMEMBERED: Final = 10_000
"""Buckets of the present minute that are counted in memory; beyond, each attempt is a write."""

MAX_SERVICE_CHARS: Final = 63
MAX_WORDS_CHARS: Final = 500


@dataclasses.dataclass(slots=True)
class _Tally:
    seen: int = 0
    written: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class Denials:
    """Tells the audit of attempts that were denied."""

    store: AuditStore
    clock: Clock
    _minute: int = 0
    _tallies: dict[str, _Tally] = dataclasses.field(default_factory=dict)

    async def add(self, *, by: str, what: str, service: str, words: str) -> None:
        """Tell of one attempt. A database that does not answer is logged: the attempt stays denied.

        Args:
            by: Whose it was.
            what: What they tried, a route: there must be few different ones.
            service: On which service, or "".
            words: Why it was denied.
        """
        now = self.clock.now()
        minute = int(now.timestamp()) // 60
        if minute != self._minute:
            self._minute, self._tallies = minute, {}
        bucket = f"{minute} {what} {by}"
        tally = self._tallies.get(bucket, _Tally())
        if len(self._tallies) < MAX_REMEMBERED:
            self._tallies[bucket] = tally
        tally.seen += 1
        if tally.seen < 2 * tally.written:
            return
        count, tally.written = tally.seen - tally.written, tally.seen
        denial = Denial(bucket, by, what, _clip(service, MAX_SERVICE_CHARS), _clip(words, MAX_WORDS_CHARS), now, count)
        log.info("access.denied", by=by, what=what, service=service, count=tally.seen)
        try:
            await self.store.add_denial(denial, keep=KEPT)
        except ControlPlaneError:
            tally.written -= count
            log.warning("access.denial_not_written", by=by, what=what, exc_info=True)


def _clip(text: str, most: int) -> str:
    """Return of what somebody sent only so much, and nothing that a database refuses."""
    return "".join(char if char.isprintable() else "?" for char in text[:most])
