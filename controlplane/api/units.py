"""Spans and shares as people write them (``300s``, ``5%``), read exactly and written back the same way.

A bare number is refused: ``timeout: 300`` could mean milliseconds, ``weight: 1`` one or a hundred percent.
"""

import datetime as dt
import re
from decimal import Decimal, InvalidOperation

from controlplane.rollout.model import FULL_WEIGHT_BP

_UNIT_MS = {
    "ms": Decimal(1),
    "s": Decimal(1_000),
    "m": Decimal(60_000),
    "h": Decimal(3_600_000),
    "d": Decimal(86_400_000),
}
_UNIT_BYTES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_BYTES = re.compile(r"(\d{1,16}) ?(B|KiB|MiB|GiB|TiB)")
_PART = re.compile(r"(\d{1,15}(?:\.\d{1,30})?) ?(ms|s|m|h|d)")
_SPAN = re.compile(rf"(?:{_PART.pattern})+")
_MAX_SPAN_MS = Decimal(86_400_000 * 3650)
_LONG_SECONDS = 600


class UnitError(ValueError):
    """A text is not a span or a share; *problem* and *fix* are halves of the line a user reads."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.problem = problem
        self.fix = fix


def parse_span_ms(value: object) -> Decimal:
    """Return the milliseconds of ``100ms``, ``1.5s``, ``2m``, ``1h30m`` or ``7d``.

    Raises:
        UnitError: It is anything else, or longer than ten years.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnitError(f"{value!r} is not a time", "write it with its unit, for example 30s")
    if value == 0:
        return Decimal(0)
    text = str(value).strip()
    if not _SPAN.fullmatch(text):
        if re.fullmatch(r"\d+(\.\d+)?", text):
            raise UnitError(f"{text} has no unit", f"write {text}s or {text}ms (units: ms, s, m, h, d)")
        raise UnitError(f"{text[:40]!r} is not a time", "write a number and ms, s, m, h or d, for example 30s")
    total = sum((Decimal(number) * _UNIT_MS[unit] for number, unit in _PART.findall(text)), Decimal(0))
    if total > _MAX_SPAN_MS:
        raise UnitError(f"{text[:40]} is out of range", "use less than ten years")
    return total


def parse_span(value: object) -> dt.timedelta:
    """Return a span, to the microsecond.

    Raises:
        UnitError: See `parse_span_ms`.
    """
    return dt.timedelta(microseconds=int((parse_span_ms(value) * 1000).to_integral_value()))


def format_span(span: dt.timedelta) -> str:
    """Write a span so that `parse_span` reads it back."""
    micros = span // dt.timedelta(microseconds=1)
    seconds, rest = divmod(micros, 1_000_000)
    if rest:
        return f"{_plain(Decimal(micros) / 1000)}ms" if seconds < 1 else f"{_plain(Decimal(micros) / 1_000_000)}s"
    if seconds >= _LONG_SECONDS:
        for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
            if seconds % length == 0:
                return f"{seconds // length}{unit}"
    return f"{seconds}s"


def format_ms(milliseconds: float) -> str:
    """Write milliseconds so that `parse_span_ms` reads the same number back."""
    exact = Decimal(repr(float(milliseconds)))
    if exact >= 1000 and exact % 1000 == 0:
        return f"{_plain(exact / 1000)}s"
    return f"{_plain(exact)}ms"


def parse_ratio(value: object) -> Decimal:
    """Return the fraction of 1 that ``5%`` or ``0.05`` means.

    Raises:
        UnitError: It is anything else, or a whole number without a percent sign.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnitError(f"{value!r} is not a percentage", "write it like 5%")
    if isinstance(value, int) and value != 0:
        raise UnitError(f"{value} has no unit", f"write {value}%")
    text = str(value).strip()
    number = text.removesuffix("%").rstrip()
    try:
        ratio = Decimal(number)
    except InvalidOperation:
        ratio = Decimal("NaN")
    if not ratio.is_finite() or len(number) > 400:
        raise UnitError(f"{text[:40]!r} is not a percentage", "write it like 5%")
    if text.endswith("%"):
        ratio /= 100
    elif ratio > 1:
        raise UnitError(f"{text} is more than 1", f"write {text}% if percent is meant")
    if not 0 <= ratio <= 1:
        raise UnitError(f"{text} is out of range", "use 0% to 100%")
    return ratio


def parse_weight_bp(value: object) -> int:
    """Return the basis points that ``5%`` or ``0.05`` means.

    Raises:
        UnitError: See `parse_ratio`; or it is finer than 0.01 %.
    """
    points = parse_ratio(value) * FULL_WEIGHT_BP
    if points != points.to_integral_value():
        raise UnitError(f"{value} is finer than a weight can be", "use whole hundredths of a percent, at least 0.01%")
    return int(points)


def format_ratio(ratio: float) -> str:
    """Write a fraction of 1 as a percentage that `parse_ratio` reads back to the same number."""
    return f"{_plain(Decimal(repr(float(ratio))) * 100)}%"


def format_weight(weight_bp: int) -> str:
    """Write basis points as a percentage."""
    return f"{_plain(Decimal(weight_bp) / 100)}%"


def parse_bytes(value: object) -> int:
    """Return the bytes of ``20GiB``, ``500MiB``, ``64KiB`` or ``0B``.

    Raises:
        UnitError: It is anything else.
    """
    fix = "write a whole number and B, KiB, MiB, GiB or TiB, for example 20GiB"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnitError(f"{value!r} is not a size", fix)
    if value == 0:
        return 0
    found = _BYTES.fullmatch(str(value).strip())
    if found is None:
        if isinstance(value, int):
            raise UnitError(f"{value} has no unit", f"write {value}B or {value}GiB (units: B, KiB, MiB, GiB, TiB)")
        raise UnitError(f"{value[:40]!r} is not a size", fix)
    return int(found[1]) * _UNIT_BYTES[found[2]]


def format_bytes(number: int) -> str:
    """Write a number of bytes so that `parse_bytes` reads it back, with the largest unit that makes it whole."""
    unit, length = next((unit, length) for unit, length in _UNIT_BYTES.items() if number % length == 0)
    return "0B" if number == 0 else f"{number // length}{unit}"


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
