"""Freeze windows: no rollout starts and none gets more traffic; giving traffic back always works. Pure."""

import dataclasses
import datetime as dt
from collections.abc import Iterable

EVERY_SERVICE = ""
"""The scope of a freeze of everything."""


@dataclasses.dataclass(frozen=True, slots=True)
class Freeze:
    """A window asked for at *at*, of one *service* or of every one; it is over at *until*, or sooner at *ended_at*."""

    number: int
    service: str
    until: dt.datetime
    by: str
    why: str
    at: dt.datetime
    ended_at: dt.datetime | None = None

    @property
    def end(self) -> dt.datetime:
        """When it is over."""
        return self.until if self.ended_at is None else min(self.until, self.ended_at)

    def covers(self, service: str) -> bool:
        """Whether it concerns *service*."""
        return self.service in {service, EVERY_SERVICE}


def freeze_of(freezes: Iterable[Freeze], service: str, *, now: dt.datetime) -> Freeze | None:
    """Return the freeze that *service* is under now: of several, the one that lasts longest."""
    found = (freeze for freeze in freezes if freeze.covers(service) and freeze.at <= now < freeze.end)
    return max(found, key=lambda freeze: freeze.end, default=None)


def freeze_words(freeze: Freeze) -> str:
    """Say what is frozen, until when, by whom and why."""
    what = freeze.service or "everything"
    why = f" ({freeze.why})" if freeze.why else ""
    return f"{what} is frozen until {freeze.end:%Y-%m-%d %H:%M} UTC by {freeze.by}{why}"


def frozen_span(freezes: Iterable[Freeze], service: str, *, since: dt.datetime, now: dt.datetime) -> dt.timedelta:
    """Return how much of the time from *since* to *now* the service was frozen; overlapping windows count once."""
    spans = sorted(
        (max(freeze.at, since), min(freeze.end, now))
        for freeze in freezes
        if freeze.covers(service) and freeze.at < now and freeze.end > since
    )
    total, reached = dt.timedelta(0), since
    for begins, ends in spans:
        total += max(dt.timedelta(0), ends - max(begins, reached))
        reached = max(reached, ends)
    return total
