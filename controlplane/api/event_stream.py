"""Everything that happens to services and rollouts, told as it happens, to those who may see it."""

import dataclasses
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from controlplane.api.access import Reader, StillAllowed, UseParts
from controlplane.api.job_events import STREAM
from controlplane.api.sse import KEEP_ALIVE, EventStream, News, StillGood, Streams
from controlplane.auth.roles import Principal
from controlplane.clock import Clock
from controlplane.errors import ForbiddenError, HiddenError, InvalidInputError
from controlplane.events.feed import EventFeed, FellBehindError
from controlplane.events.model import EventType, Wanted

router = APIRouter(prefix="/v1", tags=["events"])

MAX_NAMED: Final = 20
"""Services that one stream may be asked for by name."""
MAX_LAST: Final = 1_000
ASK_KEY_S: Final = 15.0
"""How long a stream may live on after its key was revoked, or may less, at most, if anything happens at all."""
MAX_EACH: Final = 32
"""Streams of one key: a team may share it, and each page that it has open is one."""
PUBLIC: Final = "the public"
MAX_PUBLIC: Final = 200

LastEventId = Annotated[
    str | None, Header(description="The id of the last event that you know: go on after it.", max_length=100)
]
Names = Annotated[
    list[str] | None, Query(description="Only these services; again, or separated by commas.", max_length=MAX_NAMED)
]
Kinds = Annotated[list[str] | None, Query(description="Only these types; again, or separated by commas.")]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What a reader asks for: what of, from which place, or with how much of the past, and whether to go on."""

    wanted: Wanted
    since: str | None
    last: int
    follow: bool


def _asked(
    service: Names = None,
    types: Kinds = None,
    last: Annotated[int, Query(ge=0, le=MAX_LAST, description="Begin with so many past events.")] = 0,
    follow: Annotated[  # noqa: FBT002 - a flag of the query
        bool, Query(description="Whether to go on when the past and the present are told.")
    ] = True,
    last_event_id: LastEventId = None,
) -> Asked:
    return Asked(Wanted(services=_names(service), types=_types(types)), last_event_id, last, follow)


@router.get("/events", status_code=200, response_class=EventStream, responses=STREAM)
async def follow_everything(
    request: Request,
    parts: UseParts,
    reader: Reader,
    still: StillAllowed,
    asked: Annotated[Asked, Depends(_asked)],
) -> Response:
    """Tell what happens to services and rollouts, as server-sent events.

    The first one is ``begin``, or ``reset``: the place of ``Last-Event-ID`` is too far back to go on from, so forget
    what you know. ``live`` says that the past that was asked for and the present are told.

    What happens has an id: ``rollout``, ``command``, ``refused``, ``apply``, ``delete``, ``split``, ``revision``,
    ``freeze``, ``pictures``, ``ack``, ``nack``; who comes back with the last id misses none and gets none twice, from
    any replica. How things stand has none: ``state``, ``weights``, ``evidence`` and, for services asked for by name,
    ``series`` are told whole to begin with and whenever they change; of several changes only the last may be told.
    """
    asked = dataclasses.replace(asked, wanted=dataclasses.replace(asked.wanted, sees=_seen(reader, asked.wanted)))
    streams: Streams = request.app.state.streams
    return streams.open(
        f"{reader.name or PUBLIC} (everything)",
        _news(parts.events, asked),
        still_good=_asking_now_and_then(parts.clock, still, asked.wanted),
        most_each=MAX_EACH if reader.name else MAX_PUBLIC,
    )


async def _news(feed: EventFeed, asked: Asked) -> News:
    with feed.follow(asked.wanted, since=asked.since, last=asked.last) as follower:
        while not follower.is_closed and (asked.follow or not follower.is_live):
            try:
                news = await follower.wait_news(KEEP_ALIVE)
            except FellBehindError as exc:
                raise TimeoutError(str(exc)) from exc
            yield follower.heartbeat if news is None else news


def _seen(reader: Principal, wanted: Wanted) -> frozenset[str] | None:
    """Return the services that the reader may see, None for all.

    Raises:
        HiddenError: One that is named is none of them.
    """
    for name in sorted(wanted.services or ()):
        if not reader.sees(name):
            raise HiddenError("service", name, service=name)
    return None if reader.sees_all else frozenset(grant.service for grant in reader.grants)


def _asking_now_and_then(clock: Clock, still: StillAllowed, wanted: Wanted) -> StillGood:
    """Return what asks whether the reader may still see it: a stream has news ten times a second, and keys are rows."""
    asked = clock.steady()

    async def ask() -> None:
        nonlocal asked
        if clock.steady() - asked >= ASK_KEY_S:
            asked = clock.steady()
            if _seen(await still(), wanted) != wanted.sees:
                raise ForbiddenError("what this key may see has changed; ask again")

    return ask


def _names(given: list[str] | None) -> frozenset[str] | None:
    names = _split(given)
    if len(names) > MAX_NAMED:
        raise InvalidInputError("service", f"names {len(names)} services", f"name {MAX_NAMED} at most, or none for all")
    return frozenset(names) or None


def _types(given: list[str] | None) -> frozenset[EventType] | None:
    known = {each.value: each for each in EventType}
    names = _split(given)
    unknown = sorted(names - known.keys())
    if unknown:
        raise InvalidInputError("types", f"{unknown[0]!r} is no type of event", f"use some of {', '.join(known)}")
    return frozenset(known[name] for name in names) or None


def _split(given: list[str] | None) -> set[str]:
    return {name.strip() for text in given or () for name in text.split(",")} - {""}
