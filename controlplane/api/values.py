"""How values are written in documents and requests: times and sizes with their units, shares, addresses."""

import datetime as dt
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from controlplane.api import units
from controlplane.api.problems import custom_error, unit_error


def _read_span(value: object) -> object:
    if isinstance(value, dt.timedelta):
        return value
    try:
        return units.parse_span(value)
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_size(value: object) -> int:
    try:
        return units.parse_bytes(value)
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_ms(value: object) -> float:
    try:
        return float(units.parse_span_ms(value))
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_ratio(value: object) -> float:
    try:
        return float(units.parse_ratio(value))
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_weight(value: object) -> int:
    try:
        return units.parse_weight_bp(value)
    except units.UnitError as exc:
        raise unit_error(exc) from exc


def _read_endpoint(value: object) -> object:
    fix = "write host:port, for example worker:8083 or [::1]:8083"
    if not isinstance(value, str):
        raise custom_error(f"{value!r} is not an endpoint", fix)
    text = value.strip()
    host, colon, port = text.rpartition(":")
    if "/" in text or not colon:
        raise custom_error(f"{text[:80]!r} is not an endpoint", fix)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise custom_error(f"{text[:80]!r} is not an endpoint", fix)
    if not host or any(char.isspace() or not char.isprintable() for char in host):
        raise custom_error(f"{text[:80]!r} names no host", fix)
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise custom_error(f"{port[:20]!r} is not a port", "use 1 to 65535")
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"


def _read_moment(value: object) -> dt.datetime:
    fix = "write it like 2026-12-01T22:00:00Z"
    if not isinstance(value, str):
        raise custom_error(f"{value!r} is not a time", fix)
    try:
        moment = dt.datetime.fromisoformat(value)
        utc = moment.astimezone(dt.UTC)
    except (ValueError, OverflowError) as exc:
        raise custom_error(f"{value[:40]!r} is not a time", fix) from exc
    if moment.tzinfo is None:
        raise custom_error(f"{value[:40]} has no time zone", "add one, as 2026-12-01T22:00:00Z")
    return utc


def _read_visible(value: str) -> str:
    if not value.isprintable():
        raise custom_error(f"{value[:40]!r} holds characters that cannot be seen", "use visible ones")
    return value


def _read_query(value: object) -> object:
    """Let a query be written on several lines."""
    return _read_visible(" ".join(value.split())) if isinstance(value, str) else value


def _is_written(kind: str, *examples: str, number: bool = False) -> WithJsonSchema:
    written = ["string", "number"] if number else "string"
    return WithJsonSchema({"type": written, "description": kind, "examples": list(examples)})


Span = Annotated[
    dt.timedelta,
    BeforeValidator(_read_span),
    PlainSerializer(units.format_span, return_type=str),
    _is_written("A time with its unit: ms, s, m, h or d.", "300s", "1.5s", "100ms", "2h"),
]
Size = Annotated[
    int,
    BeforeValidator(_read_size),
    PlainSerializer(units.format_bytes, return_type=str),
    _is_written("A number of bytes with its unit: B, KiB, MiB, GiB or TiB.", "20GiB", "500MiB"),
]
Milliseconds = Annotated[
    float,
    BeforeValidator(_read_ms),
    PlainSerializer(units.format_ms, return_type=str),
    _is_written("A time with its unit: ms, s, m, h or d.", "400ms", "1.5s"),
]
Ratio = Annotated[
    float,
    BeforeValidator(_read_ratio),
    PlainSerializer(units.format_ratio, return_type=str),
    _is_written("A percentage, or a fraction with a decimal point.", "1%", "0.01", number=True),
]
Weight = Annotated[
    int,
    BeforeValidator(_read_weight),
    PlainSerializer(units.format_weight, return_type=str),
    _is_written("A percentage in hundredths of a percent.", "5%", "0.01%"),
]
Visible = Annotated[str, AfterValidator(_read_visible)]
Query = Annotated[str, BeforeValidator(_read_query), Field(description="PromQL, with $version, $cluster or $service.")]
Moment = Annotated[
    dt.datetime,
    BeforeValidator(_read_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-12-01T22:00:00Z"]}),
]
Address = Annotated[str, BeforeValidator(_read_endpoint), _is_written("host:port", "worker:8083", "[::1]:8083")]
