"""Asks a version for its pictures: over HTTP as any client does, or from a folder that holds them already."""

import asyncio
import dataclasses
import datetime as dt
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httpx

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.quality.photoset import SUFFIXES, Photo
from controlplane.quality.sanity import Flaw, Unusable

VERSION_HEADER: Final = "x-model-version"
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
TRIES: Final = 5
"""How often a photo is sent to a version that says it is busy."""
MAX_PAUSE: Final = dt.timedelta(seconds=5)
GIVE_UP_AFTER: Final = 5
"""Answers in a row that never came, after which no more photos are sent: nobody waits for a version that hangs."""
WRONG_PLACE: Final = frozenset({401, 403, 404, 405})
BUSY: Final = frozenset({429, 503})


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a version made of one photo."""

    content: bytes | Unusable
    """The picture's file, not yet looked at."""
    said: str = ""
    """The version that the worker says it is; empty where it says nothing."""
    is_busy: bool = False
    """The worker had no room for the photo: nothing is known of its picture."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a version answers photos: the full addresses of its workers, which take turns, and what is sent along."""

    urls: tuple[str, ...]
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Asker:
    """Sends photos to one version, a few at a time.

    Args:
        target: Where to.
        client: How; its timeout is what an answer may take.
        clock: For the pauses that a busy version asks for.
        parallel: How many photos are under way at once.
        progress: Called after each answer.
    """

    def __init__(
        self, target: Target, *, client: httpx.AsyncClient, clock: Clock, parallel: int, progress: Callable[[], None]
    ) -> None:
        self._target = target
        self._client = client
        self._clock = clock
        self._parallel = parallel
        self._progress = progress
        self._lost = 0
        self._is_right_place = False
        self._complaint = ""

    async def ask(self, photos: Sequence[Photo]) -> list[Answer]:
        """Return one answer for each photo, in their order.

        Raises:
            UnavailableError: Nothing answers there at all, or nothing that takes photos.
        """
        never = Answer(Unusable(Flaw.MISSING, f"not asked: the {GIVE_UP_AFTER} before got no answer"))
        answers = [never] * len(photos)
        waiting = iter(enumerate(photos))

        async def work() -> None:
            for place, photo in waiting:
                if self._lost >= GIVE_UP_AFTER:
                    return
                answers[place] = await self._send(place, photo)
                self._progress()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._parallel):
                tasks.create_task(work())
        if not self._is_right_place:
            raise UnavailableError(self._complaint)
        return answers

    async def _send(self, place: int, photo: Photo) -> Answer:
        url = self._target.urls[place % len(self._target.urls)]
        try:
            status, said, body = await self._post_until_taken(url, photo)
        except httpx.TransportError as exc:
            return self._lose(url, exc)
        self._lost = 0
        if status in WRONG_PLACE:
            self._complaint = self._complaint or f"{url} answered {status}{_quote(body)}; is it a worker's address?"
        else:
            self._is_right_place = True
        if status != httpx.codes.OK:
            return Answer(Unusable(Flaw.MISSING, f"answered {status}{_quote(body)}"), said, is_busy=status in BUSY)
        if len(body) > MAX_ANSWER_BYTES:
            return Answer(Unusable(Flaw.UNREADABLE, f"more than {MAX_ANSWER_BYTES >> 20} MiB"), said)
        return Answer(body, said)

    async def _post_until_taken(self, url: str, photo: Photo) -> tuple[int, str, bytes]:
        for _ in range(TRIES - 1):
            status, headers, body = await self._post(url, photo)
            if status not in BUSY:
                return status, headers.get(VERSION_HEADER, ""), body
            await self._clock.sleep(_read_pause(headers.get("retry-after", "")))
        status, headers, body = await self._post(url, photo)
        return status, headers.get(VERSION_HEADER, ""), body

    async def _post(self, url: str, photo: Photo) -> tuple[int, httpx.Headers, bytes]:
        headers = {"content-type": photo.media_type, "accept": "image/png", **self._target.headers}
        body = bytearray()
        async with self._client.stream("POST", url, content=photo.data, headers=headers) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    break
        return response.status_code, response.headers, bytes(body)

    def _lose(self, url: str, exc: httpx.TransportError) -> Answer:
        why = " ".join(str(exc).split()) or type(exc).__name__
        self._lost += 1
        self._complaint = self._complaint or f"{url} does not answer ({why}); is the worker running?"
        return Answer(Unusable(Flaw.MISSING, f"no answer ({why})"))


def _read_pause(retry_after: str) -> dt.timedelta:
    """How long a busy version wants to be left alone; 0.2 s where it does not say."""
    return min(dt.timedelta(seconds=int(retry_after)), MAX_PAUSE) if retry_after.isdecimal() else MAX_PAUSE / 25


def _quote(body: bytes) -> str:
    """The beginning of an error's text, on one line."""
    text = " ".join(body[:2000].decode("utf-8", errors="replace").split())
    shown = "".join(character for character in text if character.isprintable())[:120]
    return f": {shown}" if shown else ""


def read_folder(folder: pathlib.Path, photos: Sequence[Photo]) -> list[Answer]:
    """Return the pictures that lie in *folder* under the photos' names.

    Raises:
        InvalidInputError: It cannot be read, or holds no picture of any of the photos.
    """
    try:
        files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}
        answers = [
            Answer(files[photo.name].read_bytes() if photo.name in files else Unusable(Flaw.MISSING, "no such file"))
            for photo in photos
        ]
    except OSError as exc:
        raise InvalidInputError(str(folder), f"cannot be read ({exc.strerror})", "name a folder of pictures") from exc
    if not any(isinstance(answer.content, bytes) for answer in answers):
        names = ", ".join(photo.name for photo in photos[:3])
        fix = f"name the pictures like the photos: {names}, … with one of {', '.join(SUFFIXES)}"
        raise InvalidInputError(str(folder), "holds no picture of any photo", fix)
    return answers
