"""Pairs of live requests: what the workers of two versions kept of the same mirrored requests, found by their ids.

Envoy's mirroring drops the second answer, but both workers see one `x-request-id`, and a worker that samples keeps
photo and answer of the same ids as every other (`hueshift-worker serve --sample-share`).
"""

import dataclasses
import datetime as dt
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import httpx
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.quality.answers import MAX_ANSWER_BYTES, Answer, Target
from controlplane.quality.photoset import Photo
from controlplane.quality.pictures import read_upright
from controlplane.quality.sanity import FATAL, Flaw
from controlplane.quality.verdict import MIN_PAIRS, Case

LIVE: Final = "live"
"""The stratum of all of them: nobody has said what they show."""
POLL: Final = dt.timedelta(seconds=10)
MAX_PAIRS: Final = 256
MAX_HELD_BYTES: Final = 2**30
"""Photos, their pixels and answers that are collected at most."""
MIN_SIDE_PX: Final = 256
"""Of the longer side. Smaller photos are not averaged when they are looked at, and coding noise passes for a flaw."""
UNSURE: Final = frozenset({*FATAL, Flaw.PALE})
"""Where the old version's picture is so, the photo may be a scan or a wall: nothing follows from the new one's."""


class Kept(BaseModel):
    """One request that a worker kept, as its `/samples` lists it."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    path: str
    version: str
    input_bytes: int
    output_bytes: int
    input_sha256: str


class Listing(BaseModel):
    """The answer of `/samples`."""

    samples: list[Kept]


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A kept request and the worker that has it."""

    worker: str
    kept: Kept


@dataclasses.dataclass(frozen=True, slots=True)
class LivePairs:
    """What was collected: photos with both versions' answers, in one order, and how it came to so few or many."""

    photos: tuple[Photo, ...]
    old: tuple[Answer, ...]
    new: tuple[Answer, ...]
    counts: tuple[int, int, int]
    """Different requests of the path that the old version kept, that the new one kept, and that both did."""
    left_out: Mapping[str, int]
    """Pairs that cannot be compared, by the reason."""


class TooFewLivePairsError(UnavailableError):
    """Too few requests were kept by both versions to hold the new one against the old one."""

    def __init__(self, usable: int, pairs: LivePairs, left_out: Mapping[str, int]) -> None:
        old, new, both = pairs.counts
        out = "".join(f", {count} left out ({reason})" for reason, count in left_out.items())
        super().__init__(
            f"live requests: {usable} pairs to compare (the old version's workers kept {old}, the new one's {new}, "
            f"{both} of them the same{out}); {MIN_PAIRS} are needed, so mirror or sample more, or wait with --minutes"
        )


def match(old: Iterable[Held], new: Iterable[Held], path: str) -> list[tuple[Held, Held]]:
    """Pair what both versions kept of one request: the same id, at *path*, with the same photo.

    A client may send an id twice, with another photo: such are two requests.
    """
    known = {held.kept.id: held for held in old if held.kept.path == path}
    return [
        (known[held.kept.id], held)
        for held in new
        if held.kept.path == path
        and held.kept.id in known
        and known[held.kept.id].kept.input_sha256 == held.kept.input_sha256
    ]


class Collector:
    """Asks the workers of two versions what they kept, again and again for as long as is wanted.

    Args:
        old: The old version's workers.
        new: The new one's.
        path: What was asked, such as `/repair`.
        token: What the workers' --sample-token-file holds.
        client: How to ask.
        clock: For the pauses.
        progress: Told how many pairs there are.
    """

    def __init__(
        self,
        old: Target,
        new: Target,
        *,
        path: str,
        token: str,
        client: httpx.AsyncClient,
        clock: Clock,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._workers = (_workers(old), _workers(new))
        self._path = path
        self._headers = {"authorization": f"Bearer {token}"}
        self._client = client
        self._clock = clock
        self._progress = progress
        self._seen: tuple[set[str], set[str]] = (set(), set())
        self._found: dict[str, tuple[Photo, Answer, Answer] | None] = {}
        self._left_out: dict[str, int] = {}
        self._held_bytes = 0

    async def collect(self, span: dt.timedelta) -> LivePairs:
        """Return the pairs that there are now, and for *span* from now on.

        Raises:
            InvalidInputError: The token is not that of a worker.
            UnavailableError: A worker does not answer, or does not sample.
        """
        end = self._clock.now() + span
        while True:
            await self._turn()
            rest = end - self._clock.now()
            if rest <= dt.timedelta(0) or self._is_full:
                break
            await self._clock.sleep(min(POLL, rest))
        pairs = [pair for pair in self._found.values() if pair is not None]
        photos, old, new = zip(*pairs, strict=True) if pairs else ((), (), ())
        counts = (len(self._seen[0]), len(self._seen[1]), len(self._seen[0] & self._seen[1]))
        return LivePairs(photos, old, new, counts, self._left_out)

    @property
    def _is_full(self) -> bool:
        return len(self._found) >= MAX_PAIRS or self._held_bytes >= MAX_HELD_BYTES

    async def _turn(self) -> None:
        kept_by_old, kept_by_new = [
            [one for worker in workers for one in await self._list(worker)] for workers in self._workers
        ]
        for held, seen in zip((kept_by_old, kept_by_new), self._seen, strict=True):
            seen |= {one.kept.id for one in held if one.kept.path == self._path}
        for old, new in match(kept_by_old, kept_by_new, self._path):
            if old.kept.id not in self._found and not self._is_full:
                await self._fetch(old, new)
                self._progress(len(self._found))

    async def _list(self, worker: str) -> list[Held]:
        status, body = await self._get(f"{worker}/samples")
        match status:
            case httpx.codes.OK:
                try:
                    listing = Listing.model_validate_json(body)
                except ValidationError as exc:
                    raise UnavailableError(f"{worker}/samples is no list of samples; is it a worker?") from exc
                return [Held(worker, kept) for kept in listing.samples]
            case httpx.codes.UNAUTHORIZED:
                raise InvalidInputError(
                    "--sample-token-file",
                    f"is not the token of {worker}",
                    "give the file that the worker was started with",
                )
            case httpx.codes.NOT_FOUND:
                raise UnavailableError(
                    f"{worker} keeps no samples; start it with --sample-share 1% and --sample-token-file FILE"
                )
            case _:
                raise UnavailableError(f"{worker}/samples answered {status}; see the worker's log")

    async def _fetch(self, old: Held, new: Held) -> None:
        if max(old.kept.input_bytes, old.kept.output_bytes, new.kept.output_bytes) > MAX_ANSWER_BYTES:
            self._found[old.kept.id] = None
            self._leave_out(f"over {MAX_ANSWER_BYTES >> 20} MiB")
            return
        files = []
        for held, part in ((old, "input"), (old, "output"), (new, "output")):
            status, body = await self._get(f"{held.worker}/samples/{held.kept.id}/{part}")
            if status != httpx.codes.OK:
                return  # dropped meanwhile: it was old, or others pushed it out
            files.append(body)
        photo, *answers = files
        self._found[old.kept.id] = None
        try:
            pixels = read_upright(photo)
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError):
            self._leave_out("transparent, deep or in a format that is read by workers only")
            return
        if max(pixels.shape[:2]) < MIN_SIDE_PX:
            self._leave_out(f"photos under {MIN_SIDE_PX} px")
            return
        self._held_bytes += pixels.nbytes + sum(len(file) for file in files)
        first, second = (Answer(data, held.kept.version) for data, held in zip(answers, (old, new), strict=True))
        self._found[old.kept.id] = (Photo(old.kept.id, LIVE, photo, pixels), first, second)

    def _leave_out(self, reason: str) -> None:
        self._left_out[reason] = self._left_out.get(reason, 0) + 1

    async def _get(self, url: str) -> tuple[int, bytes]:
        body = bytearray()
        try:
            async with self._client.stream("GET", url, headers=self._headers) as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise UnavailableError(f"{url} answers more than {MAX_ANSWER_BYTES >> 20} MiB")
        except httpx.TransportError as exc:
            why = " ".join(str(exc).split()) or type(exc).__name__
            raise UnavailableError(f"{url} does not answer ({why}); is the worker running?") from exc
        return response.status_code, bytes(body)


def read_token(file: pathlib.Path, *, field: str) -> str:
    """Return the token in *file*, which workers were started with as well.

    Raises:
        InvalidInputError: There is none; *field* is what names the file.
    """
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInputError(field, f"{file} cannot be read", "name another file") from exc
    if not token or not token.isprintable():
        raise InvalidInputError(field, f"{file} holds no token", "name another file")
    return token


def _workers(target: Target) -> list[str]:
    parts = [urllib.parse.urlsplit(url) for url in target.urls]
    return list(dict.fromkeys(f"{one.scheme}://{one.netloc}" for one in parts))


def choose(cases: Sequence[Case], pairs: LivePairs) -> tuple[list[Case], tuple[str, ...]]:
    """The cases from which something follows, and notes on what was left out.

    Raises:
        TooFewLivePairsError: Fewer than 8 of them.
    """
    sound = [case for case in cases if not UNSURE.intersection(case.old_flaws)]
    left_out = dict(pairs.left_out)
    if len(sound) < len(cases):
        left_out["grey, pale or broken in the old version"] = len(cases) - len(sound)
    if len(sound) < MIN_PAIRS:
        raise TooFewLivePairsError(len(sound), pairs, left_out)
    return sound, tuple(f"left out: {count} pairs, {reason}" for reason, count in left_out.items())
