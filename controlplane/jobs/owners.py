"""Pure: what was agreed with an owner of jobs, and whether one more job is within it.

What an agreement leaves out is the installation's default. Quotas are about jobs and pictures that are there now, so
they are counted from the rows themselves: there is no counter that could go wrong.
"""

import dataclasses
import datetime as dt
import re
from typing import Final

from controlplane.errors import InvalidInputError, OverQuotaError
from controlplane.jobs.model import KEEP

OWNER: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,61}[A-Za-z0-9])?")
"""As an API key's name, which is what an owner is known by."""
MAX_JOBS: Final = 1_000_000_000
MAX_BYTES: Final = 1 << 50
DAY: Final = dt.timedelta(hours=24)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What an owner may have. Zero of anything refuses every job.

    Args:
        max_waiting: Jobs that wait or run at once.
        max_daily: Jobs submitted within 24 hours, deleted ones too.
        max_bytes: Bytes of photos and results that are stored.
    """

    max_waiting: int = 10_000
    max_daily: int = 100_000
    max_bytes: int = 100 * (1 << 30)


DEFAULT_QUOTAS: Final = Quotas()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobOwner:
    """What was agreed with an owner; None where nothing was, so that the default holds.

    Args:
        name: The name of the API key.
        keep: How long pictures stay after a job has ended; the kind's own time where that is shorter.
        max_waiting: As in `Quotas`.
        max_daily: As in `Quotas`.
        max_bytes: As in `Quotas`.
        vip: Whether jobs may be of priority vip.
    """

    name: str
    keep: dt.timedelta | None = None
    max_waiting: int | None = None
    max_daily: int | None = None
    max_bytes: int | None = None
    vip: bool = True

    def __post_init__(self) -> None:
        if not OWNER.fullmatch(self.name):
            raise InvalidInputError("owner", f"{self.name[:80]!r} is no API key's name", "hueshift keys list has them")
        if self.keep is not None and not KEEP[0] <= self.keep <= KEEP[1]:
            raise InvalidInputError("keep", f"{self.keep} is out of range", "use 1m to 3650d")
        for field, value, most in (
            ("max_waiting", self.max_waiting, MAX_JOBS),
            ("max_daily", self.max_daily, MAX_JOBS),
            ("max_bytes", self.max_bytes, MAX_BYTES),
        ):
            if value is not None and not 0 <= value <= most:
                raise InvalidInputError(field, f"{value} is out of range", f"use 0 to {most}")

    def quotas(self, default: Quotas) -> Quotas:
        """Return what holds for this owner."""
        return Quotas(
            max_waiting=default.max_waiting if self.max_waiting is None else self.max_waiting,
            max_daily=default.max_daily if self.max_daily is None else self.max_daily,
            max_bytes=default.max_bytes if self.max_bytes is None else self.max_bytes,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobUsage:
    """What an owner has now: jobs that wait or run, jobs submitted within 24 hours, bytes of pictures stored.

    *daily_free_at*: when the oldest of as many of the newest jobs as the quota allows is 24 hours old, so that there is
    room for one more; None where there is room.
    """

    waiting: int
    daily: int
    bytes: int
    daily_free_at: dt.datetime | None = None


def keep_for(kind: dt.timedelta, owner: dt.timedelta | None) -> dt.timedelta:
    """Return how long pictures stay after the end: the shorter of the kind's time and the owner's."""
    return kind if owner is None else min(kind, owner)


def room_for(quotas: Quotas, usage: JobUsage) -> int:
    """Return how many more jobs there is room for; what their photos will take is not known."""
    if usage.bytes >= quotas.max_bytes:
        return 0
    return max(0, min(quotas.max_waiting - usage.waiting, quotas.max_daily - usage.daily))


def check_quotas(owner: str, quotas: Quotas, usage: JobUsage, *, photo_bytes: int, now: dt.datetime) -> None:
    """Refuse one more job that would be too much.

    Args:
        owner: Who submits it.
        quotas: What holds for them.
        usage: What they have without it.
        photo_bytes: What its photo takes; 0 where it is still to be fetched.
        now: The time.

    Raises:
        OverQuotaError: It is over a quota; the text names the quota, its value and what to do.
    """
    if usage.waiting >= quotas.max_waiting:
        raise OverQuotaError(
            "max_waiting",
            f"{owner} has {usage.waiting} jobs that wait or run, and may have {quotas.max_waiting}",
            "wait until some have ended, cancel some, or have the quota raised",
        )
    if usage.daily >= quotas.max_daily:
        free_at = usage.daily_free_at
        raise OverQuotaError(
            "max_daily",
            f"{owner} has submitted {usage.daily} jobs within 24 hours, and may submit {quotas.max_daily}",
            "wait, or have the quota raised",
            retry_after=None if free_at is None else max(dt.timedelta(0), free_at - now),
        )
    if usage.bytes + max(photo_bytes, 1) > quotas.max_bytes:
        raise OverQuotaError(
            "max_bytes",
            f"{owner} has {usage.bytes} bytes of pictures stored, sends {photo_bytes}, and may have {quotas.max_bytes}",
            "delete jobs whose results you have, wait until some expire, or have the quota raised",
        )


def check_vip(owner: JobOwner | None, *, vip: bool) -> None:
    """Refuse a job of a priority that its owner may not ask for.

    Raises:
        InvalidInputError: It is vip, and that was not agreed.
    """
    if vip and owner is not None and not owner.vip:
        raise InvalidInputError("priority", f"vip is not agreed for {owner.name}", "leave it out, or have it agreed")
