"""Keeps photos and answers of a few requests for minutes, so that two versions' answers to one request can be compared.

Envoy's mirroring sends a request to two workers under one `x-request-id` and drops the second answer. Which requests
are kept is a function of that id alone, so both workers keep the same ones. Off by default, for people's privacy; what
is kept lies in memory only, is bounded in number, bytes and age, and shown only to who knows a token.
"""

import argparse
import collections
import dataclasses
import datetime as dt
import hashlib
import re
from pathlib import Path
from typing import Final

from inference_worker.clock import Clock
from inference_worker.errors import NoSampleError, SettingError

SAMPLE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Ids that are kept: what may stand in a path as it is. Envoy's own are UUIDs."""
NO_SAMPLE: Final = "x-hueshift-no-sample"
"""A request with this header is never kept, whatever its value: who sends it has promised that its photo can be
forgotten, as jobs do."""
MIN_TOKEN_CHARS: Final = 16
MAX_KEEP: Final = dt.timedelta(hours=1)
SWEEP: Final = dt.timedelta(seconds=1)
"""How much longer than it may a photo can stay in memory."""
UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplePolicy:
    """What is kept, for whom."""

    token: str = dataclasses.field(repr=False)
    """Who sends this as a bearer token may see and drop what is kept."""
    share: float = 0.01
    """Of the requests' ids, 0..1."""
    keep: dt.timedelta = dt.timedelta(minutes=10)
    max_count: int = 64
    max_bytes: int = 64 * 2**20
    """Photos and answers together."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request that was answered well; both files as they came and went."""

    id: str
    path: str
    version: str
    photo: bytes = dataclasses.field(repr=False)
    answer: bytes = dataclasses.field(repr=False)
    photo_sha256: str
    """In hexadecimal: whether two workers were given the same."""
    kept_s: float
    """When, by the worker's clock."""

    @property
    def size_bytes(self) -> int:
        """What it takes of the room."""
        return len(self.photo) + len(self.answer)


def is_sampled(request_id: str, share: float) -> bool:
    """Whether requests of this id are kept: on every worker the same, and not to be foreseen from ids that grow."""
    place = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") / 2**64
    return place < share


class Samples:
    """What is kept now, the oldest first; every method forgets what has become too old."""

    def __init__(self, policy: SamplePolicy, *, clock: Clock) -> None:
        self.policy = policy
        self._clock = clock
        self._kept: collections.OrderedDict[str, Sample] = collections.OrderedDict()
        self._bytes = 0

    def offer(self, request_id: str, *, path: str, version: str, photo: bytes, answer: bytes) -> None:
        """Keep a request that was answered well, if its id is of the sample and it fits at all.

        Args:
            request_id: As the client sent it, or Envoy; empty where nobody did.
            path: What was asked, `/repair` or `/transform`.
            version: The model's.
            photo: The picture's file as it came.
            answer: The file that went out.
        """
        self._forget()
        if not SAMPLE_ID.fullmatch(request_id) or not is_sampled(request_id, self.policy.share):
            return
        found = Sample(
            id=request_id,
            path=path,
            version=version,
            photo=photo,
            answer=answer,
            photo_sha256=hashlib.sha256(photo).hexdigest(),
            kept_s=self._clock.read_s(),
        )
        self._drop(request_id)
        if found.size_bytes <= self.policy.max_bytes:
            self._kept[request_id] = found
            self._bytes += found.size_bytes
        while len(self._kept) > self.policy.max_count or self._bytes > self.policy.max_bytes:
            self._drop(next(iter(self._kept)))

    def show(self) -> list[dict[str, object]]:
        """What is kept, without the pictures; ages are in seconds, since clocks of two machines are not compared."""
        self._forget()
        now_s = self._clock.read_s()
        return [
            {
                "id": sample.id,
                "path": sample.path,
                "version": sample.version,
                "age_s": round(now_s - sample.kept_s, 3),
                "input_bytes": len(sample.photo),
                "output_bytes": len(sample.answer),
                "input_sha256": sample.photo_sha256,
            }
            for sample in self._kept.values()
        ]

    def find(self, request_id: str) -> Sample:
        """One of them.

        Raises:
            NoSampleError: It is not kept, or no longer.
        """
        self._forget()
        if request_id not in self._kept:
            raise NoSampleError
        return self._kept[request_id]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0

    async def run(self) -> None:
        """Forget in time even if nobody asks; until cancelled."""
        while True:
            await self._clock.sleep(SWEEP)
            self._forget()

    def _forget(self) -> None:
        oldest_s = self._clock.read_s() - self.policy.keep.total_seconds()
        while self._kept and next(iter(self._kept.values())).kept_s < oldest_s:
            self._drop(next(iter(self._kept)))

    def _drop(self, request_id: str) -> None:
        dropped = self._kept.pop(request_id, None)
        self._bytes -= dropped.size_bytes if dropped else 0


# -- the command line --------------------------------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of sampling, in a group of their own."""
    group = parser.add_argument_group(
        "samples of live requests",
        "off by default, since they are people's photos: photo and answer of some requests are kept in memory for a"
        " while, for `hueshift quality compare --live`. The same ids are kept on every worker",
    )
    group.add_argument("--sample-share", default="0%", metavar="SHARE", help="of the requests with an x-request-id")
    group.add_argument("--sample-keep", default="10m", metavar="TIME", help="how long, such as 90s or 10m; 1h at most")
    group.add_argument("--sample-max", type=int, default=64, metavar="N", help="most requests; the oldest go first")
    group.add_argument("--sample-max-mib", type=int, default=64, metavar="MIB", help="most of photos and answers")
    group.add_argument("--sample-token-file", type=Path, metavar="FILE", help="who shows its token may see /samples")


def read_policy(args: argparse.Namespace) -> SamplePolicy | None:
    """What the flags ask for; None where nothing is kept.

    Raises:
        SettingError: A flag's value is impossible, or there is no token.
    """
    share, keep = _read_share(args.sample_share), _read_span(args.sample_keep)
    for flag, value, high in (
        ("--sample-max", args.sample_max, 10_000),
        ("--sample-max-mib", args.sample_max_mib, 2**16),
    ):
        if not 1 <= value <= high:
            raise SettingError(f"{flag}: {value} is impossible; give 1 to {high}")
    if not share:
        return None
    return SamplePolicy(
        token=_read_token(args.sample_token_file),
        share=share,
        keep=keep,
        max_count=args.sample_max,
        max_bytes=args.sample_max_mib * 2**20,
    )


def _read_share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingError(f"--sample-share: {text!r} is impossible; give 0% to 100%, such as 1%")
    return share


def _read_span(text: str) -> dt.timedelta:
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdecimal() and len(number) <= 6 and unit in UNITS_S:
        span = dt.timedelta(seconds=int(number) * UNITS_S[unit])
        if dt.timedelta(0) < span <= MAX_KEEP:
            return span
    raise SettingError(f"--sample-keep: {text!r} is impossible; give 1s to 1h, such as 10m")


def _read_token(file: Path | None) -> str:
    if file is None:
        raise SettingError("--sample-token-file: missing; kept photos are shown only to who knows a token, so name one")
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingError(f"--sample-token-file: {file} cannot be read; name a file of one line of ASCII") from exc
    if len(token) < MIN_TOKEN_CHARS or not token.isprintable() or " " in token:
        raise SettingError(f"--sample-token-file: no token of {MIN_TOKEN_CHARS} characters or more; write a random one")
    return token
