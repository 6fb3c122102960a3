"""The port `PictureGate`: one exam for the fake and for the real one over workers that paint as a test says."""

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from controlplane.errors import UnavailableError
from controlplane.ports import PictureGate, VersionWorkers
from controlplane.quality.http_gate import HttpGate, choose_photos
from controlplane.quality.pictures import read_photo
from controlplane.quality.verdict import Limits
from controlplane.rollout.quality import QualityVerdict
from controlplane.rollout.slo import QualitySlo
from inference_worker.imaging import Encoding, encode, recombine
from tests.builders import seconds
from tests.fakes import FakeGate, ManualClock

SLO = QualitySlo("pictures", photos=12)
TOKEN = "0123456789abcdef"  # noqa: S105 - of these tests
SATURATION = {"sound": 1.0, "vivid": 1.5, "grey": 0.0}
STATUS = {"busy": 503, "broken": 500}


@functools.cache
def paint(data: bytes, saturation: float) -> bytes:
    """A simple idea of colour: warm and cold waves."""
    photo = read_photo(data)
    y, x = np.mgrid[0:32, 0:32] / 5
    ab = np.stack([12 * np.sin(x) * saturation, 18 * np.cos(y + x / 3) * saturation]).astype(np.float32)
    return encode(recombine(photo, ab), Encoding.PNG)


class Workers:
    """Workers by host: each has a style, or answers nothing."""

    def __init__(self) -> None:
        self.styles: dict[str, str] = {}
        self.seen: list[httpx.Request] = []
        self.trouble: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        """What comes before any style."""
        self.kept: dict[str, bytes] = {}
        """Photos of live requests, by id, that both versions' workers keep."""
        self.live_style = "sound"
        """Of the new version, where it is not asked by the gate."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        troubled = self.trouble(request)
        if troubled is not None:
            return troubled
        if request.url.path.startswith("/samples"):
            return self._samples(request)
        style = self.styles.get(request.url.host.partition(".")[0], "sound")
        if style == "away":
            raise httpx.ConnectError("connection refused")
        if style in STATUS:
            return httpx.Response(STATUS[style], json={"error": "no room"})
        picture = paint(request.content, SATURATION[style])
        return httpx.Response(200, content=picture, headers={"x-model-version": request.url.host})

    def _samples(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return httpx.Response(401)
        match request.url.path.split("/")[2:]:
            case []:
                rows = [
                    {
                        "id": name,
                        "path": "/repair",
                        "version": request.url.host,
                        "input_bytes": len(photo),
                        "output_bytes": 1,
                        "input_sha256": hashlib.sha256(photo).hexdigest(),
                    }
                    for name, photo in self.kept.items()
                ]
                return httpx.Response(200, json={"samples": rows})
            case [name, "input"]:
                return httpx.Response(200, content=self.kept[name])
            case [name, _]:
                style = self.live_style if request.url.host == "v2" else "sound"
                return httpx.Response(200, content=paint(self.kept[name], SATURATION[style]))
            case _:
                return httpx.Response(404)


def version(name: str, *hosts: str) -> VersionWorkers:
    return VersionWorkers(name, tuple(f"http://{host}:8083" for host in hosts or (name,)))


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def real(workers: Workers) -> HttpGate:
    return HttpGate(clock=ManualClock(), transport=httpx.MockTransport(workers))


@pytest.fixture(params=["fake", "real"])
def gate(request: pytest.FixtureRequest, workers: Workers) -> PictureGate:
    if request.param == "real":
        real: HttpGate = request.getfixturevalue("real")
        return real
    fake = FakeGate()
    fake.styles = workers.styles
    return fake


# -- what both do ------------------------------------------------------------------------------------------------------


async def test_a_twin_is_ok(gate: PictureGate) -> None:
    compared = await gate.compare(version("v1"), version("v2"), SLO)
    assert compared.verdict is QualityVerdict.OK
    assert compared.sentence.startswith("v2 is like v1")
    assert compared.report["measures"]["delta_e"]["high"] == 0
    assert (compared.old, compared.new) == ("v1", "v2")
    json.dumps(compared.report)


async def test_a_broken_version_is_blocked_and_its_worst_three_pictures_are_small(
    gate: PictureGate, workers: Workers
) -> None:
    workers.styles["v2"] = "grey"
    compared = await gate.compare(version("v1"), version("v2"), SLO)
    assert compared.verdict is QualityVerdict.BLOCK
    assert compared.sentence.startswith("v2 is blocked: grey in ")
    assert len(compared.worst) == 3
    for picture in compared.worst:
        assert picture.jpeg.startswith(b"\xff\xd8\xff")
        assert len(picture.jpeg) <= 40_000
        assert picture.words == "grey"


async def test_another_style_is_drift_by_the_limits_of_the_objective(gate: PictureGate, workers: Workers) -> None:
    workers.styles["v2"] = "vivid"
    compared = await gate.compare(version("v1"), version("v2"), SLO)
    assert compared.verdict is QualityVerdict.DRIFT
    assert compared.sentence.startswith("v2 drifts from v1: ")
    lenient = QualitySlo("pictures", delta_e=50, hue_deg=90, chroma=2, ssim=0, photos=12)
    assert (await gate.compare(version("v1"), version("v2"), lenient)).verdict is QualityVerdict.OK


@pytest.mark.parametrize("away", ["v1", "v2"])
async def test_a_version_that_is_away_gives_no_verdict_but_its_name_and_address(
    gate: PictureGate, workers: Workers, away: str
) -> None:
    workers.styles[away] = "away"
    with pytest.raises(UnavailableError, match=f"^{away}: http://{away}:8083/repair does not answer"):
        await gate.compare(version("v1"), version("v2"), SLO)


async def test_busy_workers_give_no_verdict(gate: PictureGate, workers: Workers) -> None:
    workers.styles["v2"] = "busy"
    with pytest.raises(UnavailableError, match="the workers of v2 were too busy"):
        await gate.compare(version("v1"), version("v2"), SLO)


# -- what only the real one can ---------------------------------------------------------------------------------------


async def test_photos_go_to_the_objectives_path_and_the_workers_take_turns(real: HttpGate, workers: Workers) -> None:
    slo = QualitySlo("pictures", photos=12, path="/repair/person")
    await real.compare(version("v1", "v1.a", "v1.b"), version("v2"), slo)
    hosts = [request.url.host for request in workers.seen]
    assert (hosts.count("v1.a"), hosts.count("v1.b"), hosts.count("v2")) == (6, 6, 12)
    assert {request.url.path for request in workers.seen} == {"/repair/person"}


async def test_both_versions_are_asked_in_the_same_moments_and_behind_users(workers: Workers) -> None:
    clock = ManualClock()

    async def answer(request: httpx.Request) -> httpx.Response:
        await clock.sleep(seconds(0))  # lets the other version be asked
        return workers(request)

    real = HttpGate(clock=clock, transport=httpx.MockTransport(answer))
    await real.compare(version("v1"), version("v2"), SLO)
    hosts = [request.url.host for request in workers.seen]
    assert all(abs(hosts[:count].count("v1") - hosts[:count].count("v2")) <= 2 for count in range(len(hosts)))
    assert {request.headers["x-priority"] for request in workers.seen} == {"bulk"}


async def test_when_one_version_is_away_the_other_is_left_alone(workers: Workers) -> None:
    clock = ManualClock()
    workers.styles["v2"] = "away"

    async def answer(request: httpx.Request) -> httpx.Response:
        await clock.sleep(seconds(0))
        return workers(request)

    real = HttpGate(clock=clock, transport=httpx.MockTransport(answer))
    with pytest.raises(UnavailableError, match="v2: http://v2:8083/repair does not answer"):
        await real.compare(version("v1"), version("v2"), QualitySlo("pictures"))
    assert len([request for request in workers.seen if request.url.host == "v1"]) < 20


async def test_a_dead_worker_among_others_is_envoys_to_leave_out(real: HttpGate, workers: Workers) -> None:
    workers.styles["dead"] = "away"
    compared = await real.compare(version("v1"), version("v2", "v2", "dead"), SLO)
    assert compared.verdict is QualityVerdict.OK


async def test_a_photo_that_got_lost_is_sent_once_more(real: HttpGate, workers: Workers) -> None:
    """The worker was being replaced."""
    lost = iter([True, False, True])

    def trouble(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "v2" and next(lost, False):
            raise httpx.ReadError("connection reset")
        return None

    workers.trouble = trouble
    assert (await real.compare(version("v1"), version("v2"), SLO)).verdict is QualityVerdict.OK


async def test_one_that_is_never_answered_while_the_old_version_answers_it_is_the_candidates_flaw(
    real: HttpGate, workers: Workers
) -> None:
    photo = choose_photos(12)[4]

    def trouble(request: httpx.Request) -> httpx.Response | None:
        is_it = request.url.host == "v2" and request.content == photo.data
        return httpx.Response(500, json={"error": "IndexError"}) if is_it else None

    workers.trouble = trouble
    compared = await real.compare(version("v1"), version("v2"), SLO)
    assert compared.verdict is QualityVerdict.BLOCK
    assert compared.sentence.startswith("v2 is blocked: no answer in 1 of 12 pictures (answered 500")
    assert compared.worst[0].name == photo.name


async def test_photos_that_a_busy_worker_refused_are_left_out(real: HttpGate, workers: Workers) -> None:
    photo = choose_photos(12)[4]
    workers.trouble = lambda request: (
        httpx.Response(429, headers={"retry-after": "1"}) if request.content == photo.data else None
    )
    compared = await real.compare(version("v1"), version("v2"), SLO)
    assert (compared.verdict, len(compared.report["pictures"])) == (QualityVerdict.OK, 11)


async def test_an_old_version_whose_pictures_are_no_measure_gives_no_verdict(real: HttpGate, workers: Workers) -> None:
    workers.trouble = lambda request: httpx.Response(200, content=b"garbage") if request.url.host == "v1" else None
    with pytest.raises(UnavailableError, match="v1: only 0 of 12 pictures of the old version can be used"):
        await real.compare(version("v1"), version("v2"), SLO)


async def test_the_strips_show_photo_old_and_new(real: HttpGate, workers: Workers) -> None:
    workers.styles["v2"] = "grey"
    compared = await real.compare(version("v1"), version("v2"), SLO)
    with Image.open(io.BytesIO(compared.worst[0].jpeg)) as strip:
        tiles = [
            np.asarray(strip.crop((left, 0, left + 240, 60)).convert("HSV"))[..., 1].mean() for left in (0, 246, 492)
        ]
    assert tiles[1] > 20 > max(tiles[0], tiles[2])


def test_a_part_of_the_photos_has_every_kind_and_is_always_the_same() -> None:
    assert len(choose_photos(0)) == len(choose_photos(1000)) >= 48
    few = choose_photos(8)
    assert len({photo.name for photo in few}) == 8
    assert {photo.stratum for photo in few} == {"person", "building", "landscape", "other"}
    assert [photo.name for photo in few] == [photo.name for photo in choose_photos(8)]


def test_the_objectives_defaults_are_the_gates() -> None:
    slo, limits = QualitySlo("pictures"), Limits()
    assert (slo.delta_e, slo.hue_deg, slo.chroma, slo.ssim) == (
        limits.delta_e,
        limits.hue_deg,
        limits.chroma,
        limits.ssim_ab,
    )


# -- live requests -----------------------------------------------------------------------------------------------------

LIVE = dataclasses.replace(SLO, live=True)


@pytest.fixture
def with_token(workers: Workers, tmp_path: pathlib.Path) -> HttpGate:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return HttpGate(clock=ManualClock(), transport=httpx.MockTransport(workers), sample_token_file=file)


def keep(workers: Workers, count: int) -> None:
    photos = [photo for photo in choose_photos(0) if max(photo.pixels.shape[:2]) >= 256]
    workers.kept = {f"live-{place}": photo.data for place, photo in enumerate(photos[:count])}


async def test_live_requests_are_compared_as_well_and_the_worse_verdict_counts(
    with_token: HttpGate, workers: Workers
) -> None:
    keep(workers, 9)
    sound = await with_token.compare(version("v1"), version("v2"), LIVE)
    assert sound.verdict is QualityVerdict.OK
    assert len(sound.report["live"]["pictures"]) == 9
    workers.live_style = "grey"
    compared = await with_token.compare(version("v1"), version("v2"), LIVE)
    assert compared.verdict is QualityVerdict.BLOCK
    assert compared.sentence.startswith("live requests: v2 is blocked: grey in 9 of 9 pictures")
    assert compared.report["verdict"] == "ok", "the fixed photos were coloured well"
    assert not {picture.name for picture in compared.worst} & set(workers.kept), "people's photos are not kept"
    json.dumps(compared.report)


async def test_a_broken_version_is_blocked_whatever_its_live_answers_are(
    with_token: HttpGate, workers: Workers
) -> None:
    keep(workers, 8)
    workers.styles["v2"] = "grey"
    compared = await with_token.compare(version("v1"), version("v2"), LIVE)
    assert (compared.verdict, compared.sentence[:13]) == (QualityVerdict.BLOCK, "v2 is blocked")


async def test_too_few_live_requests_are_no_verdict_and_are_told(with_token: HttpGate, workers: Workers) -> None:
    keep(workers, 7)
    workers.live_style = "grey"
    compared = await with_token.compare(version("v1"), version("v2"), LIVE)
    assert compared.verdict is QualityVerdict.OK
    assert "live requests: 7 pairs to compare" in compared.report["live"]["words"]


async def test_live_requests_without_a_token_are_no_verdict(real: HttpGate) -> None:
    with pytest.raises(UnavailableError, match="no token of the workers' samples is known; set HUESHIFT_SAMPLE_TOKEN"):
        await real.compare(version("v1"), version("v2"), LIVE)


async def test_another_token_than_the_workers_is_told(with_token: HttpGate, tmp_path: pathlib.Path) -> None:
    (tmp_path / "token").write_text("something else, and longer")
    with pytest.raises(UnavailableError, match=r"live requests: .*is not the token of http://v1:8083"):
        await with_token.compare(version("v1"), version("v2"), LIVE)
    (tmp_path / "token").unlink()
    with pytest.raises(UnavailableError, match=r"live requests: HUESHIFT_SAMPLE_TOKEN_FILE: .*/token cannot be read"):
        await with_token.compare(version("v1"), version("v2"), LIVE)
