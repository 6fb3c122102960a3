"""The traffic that a forecast goes by: what was measured, with what the command line says instead."""

import dataclasses
from typing import Final

from controlplane.api import units
from controlplane.api.answers import TrafficView
from controlplane.errors import InvalidInputError
from controlplane.rollout.recent import RecentTraffic

SECONDS: Final = 100_000
"""Over how long given rates are spread, so that small ones become whole requests."""


def given_traffic(
    recent: TrafficView, *, rate: float | None, errors: str | None, p50: str | None, p95: str | None
) -> RecentTraffic:
    """Return *recent* with the values that are given.

    Raises:
        InvalidInputError: One is no share or span, or the latencies contradict each other.
    """
    requests = round((recent.rate if rate is None else rate) * SECONDS)
    found = RecentTraffic(
        seconds=SECONDS,
        requests=requests,
        errors=round((recent.error_ratio if errors is None else _share("--errors", errors)) * requests),
        p50_ms=recent.p50_ms if p50 is None else _milliseconds("--p50", p50),
        p95_ms=recent.p95_ms if p95 is None else _milliseconds("--p95", p95),
    )
    if found.p50_ms is not None and found.p95_ms is None:
        return dataclasses.replace(found, p95_ms=found.p50_ms * 2.5)
    if found.p50_ms is not None and found.p95_ms is not None and found.p95_ms < found.p50_ms:
        raise InvalidInputError("--p95", f"{found.p95_ms:g} ms is less than the median", "give both, --p95 the larger")
    return found


def _share(field: str, text: str) -> float:
    try:
        share = float(units.parse_ratio(text))
    except units.UnitError as exc:
        raise InvalidInputError(field, exc.problem, exc.fix) from exc
    if not 0 <= share < 1:
        raise InvalidInputError(field, f"{text} is out of range", "give 0% to below 100%")
    return share


def _milliseconds(field: str, text: str) -> float:
    try:
        found = float(units.parse_span_ms(text))
    except units.UnitError as exc:
        raise InvalidInputError(field, exc.problem, exc.fix) from exc
    if not 1 <= found <= 300_000:
        raise InvalidInputError(field, f"{text} is out of range", "give 1ms to 5m")
    return found
