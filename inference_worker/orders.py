"""Pure: what a request asks for beside its photo, read from its query and its headers."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from inference_worker.errors import BadRequestError
from inference_worker.imaging import Encoding, choose_encoding
from inference_worker.scheduling import Priority

COLORIZE_PATH: Final = "/repair"
TRANSFORM_PATH: Final = "/transform"
FORCE_VALUES: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
PRIORITY_HEADER: Final = "x-priority"
TIMEOUT_HEADER: Final = "x-envoy-expected-rq-timeout-ms"
"""Set by Envoy to what is left of the route's timeout; counted, as there, from the end of the request's body."""
SIZE_HEADER: Final = "x-effective-size"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How a photo is to be treated."""

    encoding: Encoding = Encoding.PNG
    is_forced: bool = False
    """Take a colour photo too."""
    size_px: int | None = None
    priority: Priority = Priority.INTERACTIVE
    timeout_s: float | None = None
    """How long the caller waits; None if it did not say."""


def read_order(query: Mapping[str, str], headers: Mapping[str, str]) -> Order:
    """Read `?force=`, `?size=`, `accept`, `x-priority` and Envoy's timeout; what is absent is the default.

    Raises:
        BadRequestError: A value is none of those it can have. A timeout that is no number counts as absent, because
            no caller writes that header by hand.
    """
    return Order(
        encoding=choose_encoding(headers.get("accept", "")),
        is_forced=_read_force(query.get("force", "false").lower()),
        size_px=_read_size(query.get("size")),
        priority=_read_priority(headers.get(PRIORITY_HEADER, Priority.INTERACTIVE).lower()),
        timeout_s=_read_timeout_s(headers.get(TIMEOUT_HEADER, "")),
    )


def _read_force(text: str) -> bool:
    if text not in FORCE_VALUES:
        raise BadRequestError(f"force: {text[:40]!r} is neither true nor false; use ?force=true or leave it out")
    return FORCE_VALUES[text]


def _read_size(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) > 0):
        raise BadRequestError(f"size: {text[:40]!r} is no number of pixels; use ?size=640 or leave it out")
    return int(text)


def _read_priority(text: str) -> Priority:
    try:
        return Priority(text)
    except ValueError as exc:
        known = " or ".join(Priority)
        raise BadRequestError(f"{PRIORITY_HEADER}: {text[:40]!r} is unknown; send {known}, or leave it out") from exc


def _read_timeout_s(text: str) -> float | None:
    return int(text) / 1000 if text.isascii() and text.isdecimal() and len(text) <= 12 and int(text) > 0 else None
