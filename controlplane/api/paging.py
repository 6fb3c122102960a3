"""Long lists, a page at a time: how many are wanted, where to go on, and what a page looks like.

A page is read by what its last item is called, never by an offset: however far back it lies, it costs the same, and
what is added or removed meanwhile shifts nothing.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeAlias, TypeVar

from fastapi import Query

from controlplane.api.answering import Page
from controlplane.errors import InvalidInputError

T = TypeVar("T")

__all__ = ["Cursor", "Page", "cut", "cut_by_name", "read_cursor", "read_number", "write_cursor"]

MAX_CURSOR_CHARS: Final = 512
MAX_NUMBER_DIGITS: Final = 18
"""So many digits fit into every database's integers."""

Cursor: TypeAlias = Annotated[
    str | None,
    Query(description="Where to go on: `next` of the page before; leave it out for the first.", max_length=512),
]


def write_cursor(of: str, place: str) -> str:
    """Write the cursor that goes on after *place* in the list *of*; clients are to see nothing in it."""
    return base64.urlsafe_b64encode(f"{of}:{place}".encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, of: str) -> str | None:
    """Return the place after which the list *of* is to go on, None for its start.

    Raises:
        InvalidInputError: It is no cursor of this list.
    """
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise _not_ours() from exc
    name, colon, place = text.partition(":")
    if name != of or not colon or not place.isprintable():
        raise _not_ours()
    return place


def read_number(cursor: str | None, of: str) -> int | None:
    """Return the number after which the list *of* is to go on. Raises as `read_cursor` does."""
    place = read_cursor(cursor, of)
    if place is None:
        return None
    if not (place.isascii() and place.isdigit() and len(place) <= MAX_NUMBER_DIGITS):
        raise _not_ours()
    return int(place)


def cut(found: Sequence[T], limit: int) -> tuple[Sequence[T], T | None]:
    """Divide what a store found, asked for one more than *limit*, into the page and the item to go on after, if any."""
    return found[:limit], found[limit - 1] if len(found) > limit else None


def cut_by_name(
    found: Sequence[T], name_of: Callable[[T], str], *, of: str, cursor: str | None, limit: int
) -> tuple[Sequence[T], str | None]:
    """Return a page of what is all in memory, in the order of its names, and the cursor that goes on after it.

    Raises:
        InvalidInputError: *cursor* is none of the list *of*.
    """
    after = read_cursor(cursor, of) or ""
    rest = sorted((each for each in found if name_of(each) > after), key=name_of)
    page, last = cut(rest, limit)
    return page, None if last is None else write_cursor(of, name_of(last))


def _not_ours() -> InvalidInputError:
    return InvalidInputError(
        "cursor", "is none of this list's", "send `next` of the page before as it is, or leave it out"
    )
