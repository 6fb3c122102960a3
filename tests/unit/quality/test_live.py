"""Live pairs: what two versions' workers kept of the same requests, and only what can be compared."""

import datetime as dt
import hashlib
import io
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.quality import gate
from controlplane.quality.answers import Answer, Target
from controlplane.quality.colour import Pixels
from controlplane.quality.live import Collector, Held, Kept, LivePairs, TooFewLivePairsError, match
from controlplane.quality.verdict import Limits, Verdict
from tests.fakes import ManualClock
from tests.unit.quality.gallery import coloured, encode

pytestmark = pytest.mark.xdist_group("gallery")

TOKEN = "0123456789abcdef"  # noqa: S105 - of these tests
OLD, NEW = (
    Target(urls=("http://old-1:8083/repair", "http://old-2:8083/repair")),
    Target(urls=("http://new:8083/repair",)),
)


def kept(name: str, photo: bytes = b"photo", path: str = "/repair", worker: str = "http://w") -> Held:
    digest = hashlib.sha256(photo).hexdigest()
    return Held(worker, Kept(id=name, path=path, version="v1", input_bytes=1, output_bytes=1, input_sha256=digest))


class Workers:
    """What a fleet of workers kept, by host: id -> (photo, answer, path)."""

    def __init__(self, **hosts: dict[str, tuple[bytes, bytes, str]]) -> None:
        self.hosts = hosts
        self.statuses: dict[str, int] = {}
        self.gone: set[str] = set()
        self.lists = 0

    def keep(self, host: str, name: str, photo: bytes, answer: bytes, path: str = "/repair") -> None:
        self.hosts.setdefault(host, {})[name] = (photo, answer, path)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if host in self.statuses:
            return httpx.Response(self.statuses[host])
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return httpx.Response(401)
        mine = self.hosts.get(host, {})
        parts = request.url.path.split("/")
        if parts == ["", "samples"]:
            self.lists += 1
            return httpx.Response(200, json={"samples": [self._row(host, name) for name in mine]})
        if parts[2] in self.gone or parts[2] not in mine:
            return httpx.Response(404)
        return httpx.Response(200, content=mine[parts[2]][0 if parts[3] == "input" else 1])

    def _row(self, host: str, name: str) -> dict[str, object]:
        photo, answer, path = self.hosts[host][name]
        sizes = {"input_bytes": len(photo), "output_bytes": len(answer), "age_s": 1.5}
        return {"id": name, "path": path, "version": host, "input_sha256": hashlib.sha256(photo).hexdigest(), **sizes}


def picture(side: int = 300, mode: str = "L", kind: str = "PNG") -> bytes:
    level = np.random.default_rng(side).integers(60, 200, (9, 9)).astype(np.uint8)
    target = io.BytesIO()
    image = Image.fromarray(level).resize((side, side), Image.Resampling.BICUBIC)
    (image.convert(mode) if mode != "I;16" else Image.new("I;16", (side, side), 30_000)).save(target, kind)
    return target.getvalue()


async def collect(
    workers: Workers, *, span: dt.timedelta = dt.timedelta(0), token: str = TOKEN, clock: ManualClock | None = None
) -> LivePairs:
    async with httpx.AsyncClient(transport=httpx.MockTransport(workers)) as client:
        collector = Collector(OLD, NEW, path="/repair", token=token, client=client, clock=clock or ManualClock())
        return await collector.collect(span)


def test_requests_are_paired_by_id_path_and_photo() -> None:
    old = [kept("a"), kept("b"), kept("c", path="/transform"), kept("d", b"one")]
    new = [kept("b", worker="http://x"), kept("c", path="/transform"), kept("d", b"other"), kept("e")]
    assert match(old, new, "/repair") == [(old[1], new[0])]
    assert match(old, new, "/transform") == [(old[2], new[1])]


async def test_the_workers_of_a_version_are_asked_all_and_pairs_come_with_both_answers() -> None:
    workers = Workers()
    for host, name in (("old-1", "a"), ("old-2", "b"), ("old-2", "only-old")):
        workers.keep(host, name, picture(300), f"{name} of {host}".encode())
    for name in ("a", "b", "only-new"):
        workers.keep("new", name, picture(300), f"{name} of new".encode())
    pairs = await collect(workers)
    assert [photo.name for photo in pairs.photos] == ["a", "b"]
    assert {photo.stratum for photo in pairs.photos} == {"live"}
    assert pairs.photos[0].pixels.shape == (300, 300, 3)
    assert pairs.old == (Answer(b"a of old-1", "old-1"), Answer(b"b of old-2", "old-2"))
    assert pairs.new == (Answer(b"a of new", "new"), Answer(b"b of new", "new"))
    assert pairs.counts == (3, 3, 2)


async def test_what_comes_while_it_collects_is_found_and_what_went_before_is_kept() -> None:
    workers = Workers()
    workers.keep("old-1", "first", picture(300), b"1")
    workers.keep("new", "first", picture(300), b"2")

    class Busy(ManualClock):
        async def sleep(self, delay: dt.timedelta) -> None:
            await super().sleep(delay)
            workers.hosts.clear()  # the first is too old now
            for host in ("old-1", "new"):
                workers.keep(host, f"later-{self.steady()}", picture(300), host.encode())

    pairs = await collect(workers, span=dt.timedelta(seconds=25), clock=Busy())
    assert len(pairs.photos) == 4
    assert pairs.photos[0].name == "first"


async def test_a_pair_that_is_dropped_meanwhile_is_no_pair() -> None:
    workers = Workers()
    for host in ("old-1", "new"):
        workers.keep(host, "a", picture(300), b"x")
    workers.gone.add("a")
    assert (await collect(workers)).photos == ()


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (picture(200), "photos under 256 px"),
        (picture(300, "LA"), "transparent, deep or in a format that is read by workers only"),
        (picture(300, "I;16"), "transparent, deep or in a format that is read by workers only"),
        (b"no picture at all", "transparent, deep or in a format that is read by workers only"),
    ],
)
async def test_photos_that_cannot_be_judged_are_left_out_and_counted(photo: bytes, reason: str) -> None:
    workers = Workers()
    for host in ("old-1", "new"):
        workers.keep(host, "a", photo, b"x")
    pairs = await collect(workers)
    assert (pairs.photos, dict(pairs.left_out)) == ((), {reason: 1})


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("RGB", "WEBP"), ("RGB", "TIFF"), ("CMYK", "JPEG"), ("P", "BMP")]
)
async def test_other_photos_are_taken(mode: str, kind: str) -> None:
    workers = Workers()
    for host in ("old-1", "new"):
        workers.keep(host, "a", picture(300, mode, kind), b"x")
    assert len((await collect(workers)).photos) == 1


async def test_a_turned_photo_is_seen_upright() -> None:
    target = io.BytesIO()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.full((300, 400), 90, np.uint8)).save(target, "JPEG", exif=turned)
    workers = Workers()
    for host in ("old-1", "new"):
        workers.keep(host, "a", target.getvalue(), b"x")
    (photo,) = (await collect(workers)).photos
    assert photo.pixels.shape == (400, 300, 3)


@pytest.mark.parametrize(
    ("statuses", "token", "error", "words"),
    [
        ({}, "another-token-1234", InvalidInputError, "--sample-token-file: is not the token of http://old-1:8083; "),
        ({"new": 404}, TOKEN, UnavailableError, "http://new:8083 keeps no samples; start it with --sample-share 1% "),
        ({"new": 500}, TOKEN, UnavailableError, "http://new:8083/samples answered 500; see the worker's log"),
        ({"new": 200}, TOKEN, UnavailableError, "http://new:8083/samples is no list of samples; is it a worker?"),
    ],
)
async def test_workers_that_do_not_tell_are_named(
    statuses: dict[str, int], token: str, error: type[Exception], words: str
) -> None:
    workers = Workers()
    workers.statuses = statuses
    with pytest.raises(error) as refused:
        await collect(workers, token=token)
    assert str(refused.value).startswith(words)
    assert token not in str(refused.value)


# -- the verdict -------------------------------------------------------------------------------------------------------


def live(change: Callable[[Pixels], Pixels], *, count: int = 10, greys: int = 0) -> LivePairs:
    """Pairs of v1 and of a version that *change*s its pictures; of the first *greys* photos v1's own are grey."""
    ones = coloured("v1", every=3)[:count]
    photos = tuple(one.photo for one in ones)
    pictures = [one.photo.pixels if place < greys else one.pixels for place, one in enumerate(ones)]
    old = tuple(Answer(encode(pixels)) for pixels in pictures)
    new = tuple(Answer(encode(np.ascontiguousarray(change(pixels)))) for pixels in pictures)
    return LivePairs(photos, old, new, (count + 2, count + 1, count), {})


def test_live_pairs_are_judged_as_the_fixed_photos_are() -> None:
    names = ("v1", "v2")
    assert gate.weigh_live(names, live(lambda rgb: rgb), Limits()).verdict is Verdict.OK
    found = gate.weigh_live(names, live(lambda rgb: rgb[..., ::-1]), Limits())
    assert found.verdict is Verdict.BLOCK


def test_a_photo_that_the_old_version_leaves_grey_is_no_evidence_against_the_new_one() -> None:
    found = gate.weigh_live(("v1", "v2"), live(lambda rgb: rgb, greys=2), Limits())
    assert found.verdict is Verdict.OK
    assert found.notes == ("left out: 2 pairs, grey, pale or broken in the old version",)
    assert len(found.cases) == 8


def test_too_few_pairs_are_told_with_how_many_there_were() -> None:
    with pytest.raises(TooFewLivePairsError) as refused:
        gate.weigh_live(("v1", "v2"), live(lambda rgb: rgb, greys=3), Limits())
    assert str(refused.value) == (
        "live requests: 7 pairs to compare (the old version's workers kept 12, the new one's 11, 10 of them the same, "
        "3 left out (grey, pale or broken in the old version)); 8 are needed, so mirror or sample more, or wait with "
        "--minutes"
    )
