"""Moments as people type them: ``22:00``, ``+2h``, ``2026-12-01T22:00:00Z``."""

import datetime as dt
import re
from typing import Final

from controlplane.errors import InvalidInputError

_CLOCK: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_FIX: Final = "write 22:00, +2h, or 2026-12-01T22:00:00Z"


def parse(option: str, text: str, *, now: dt.datetime) -> dt.datetime:
    """Return the moment that *text* means, in UTC. ``22:00`` is the next one on this machine's clock.

    Raises:
        InvalidInputError: It means none; *option* is named.
    """
    from controlplane.api import units  # noqa: PLC0415 - see main

    text = text.strip()
    if text.startswith("+"):
        try:
            return (now + units.parse_span(text[1:])).astimezone(dt.UTC)
        except units.UnitError as exc:
            raise InvalidInputError(option, exc.problem, exc.fix) from exc
    if clock := _CLOCK.fullmatch(text):
        time = dt.time(int(clock[1]), int(clock[2]))
        today = now.astimezone().date()
        days = (dt.datetime.combine(today + dt.timedelta(days=later), time).astimezone() for later in (0, 1, 2))
        return next(day for day in days if day > now).astimezone(dt.UTC)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidInputError(option, f"{text[:40]!r} is not a time", _FIX) from exc
    if moment.tzinfo is None:
        raise InvalidInputError(option, f"{text[:40]} has no time zone", "add one, as 2026-12-01T22:00:00Z")
    return moment.astimezone(dt.UTC)
