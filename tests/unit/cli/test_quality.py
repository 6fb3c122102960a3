"""`hueshift quality compare`: versions by address, by name, through Envoy and as folders; files, exit codes, errors."""

import functools
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from controlplane.quality import photoset
from controlplane.quality.pictures import read_photo
from inference_worker.imaging import Encoding, encode, recombine
from tests.onnx_files import FREE, pack_model
from tests.unit.cli.conftest import Cli

PINNED = """
service: colorize
listener: {address: 127.0.0.1, port: 8080}
versions:
  - {name: v1, endpoints: ["10.0.0.1:8083", "10.0.0.2:8083"]}
  - {name: v2, endpoints: ["[fd00::2]:8084"]}
  - {name: v3, endpoints: ["10.0.0.3:8085"]}
routes:
  - {name: v1, match: {headers: [{name: x-model-type, exact: v1}]}, version: v1}
  - {name: v2, match: {prefix: /repair/v2, headers: [{name: x-try, present: true}]}, version: v2}
  - {name: repair, match: {prefix: /repair}, split: true}
split: {v1: 100%}
slos: [{name: errors, kind: error_rate, max: 1%}]
"""


@functools.cache
def paint(data: bytes, saturation: float) -> bytes:
    """A worker with a simple idea of colour: warm and cold waves."""
    photo = read_photo(data)
    y, x = np.mgrid[0:32, 0:32] / 5
    ab = np.stack([12 * np.sin(x) * saturation, 18 * np.cos(y + x / 3) * saturation]).astype(np.float32)
    return encode(recombine(photo, ab), Encoding.PNG)


class Fleet:
    """Workers by host: how much they saturate, or the status that they answer."""

    def __init__(self, **hosts: float) -> None:
        self.hosts = {"v1": 1.0, "twin": 1.0, "vivid": 1.5, "grey": 0.0, **hosts}
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        found = self.hosts.get(request.url.host, 1.0)
        if found >= 100:
            return httpx.Response(int(found), json={"error": "out of order"})
        picture = paint(request.content, found)
        return httpx.Response(200, content=picture, headers={"x-model-version": request.url.host})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Some small photos, so that a comparison is soon over."""
    folder = tmp_path_factory.mktemp("photos")
    for place in range(12):
        level = np.random.default_rng(place).integers(60, 200, (9, 9)).astype(np.uint8)
        Image.fromarray(level).resize((90, 90), Image.Resampling.BICUBIC).save(folder / f"{place}.png", "PNG")
    return folder


@pytest.fixture
def fleet(cli: Cli) -> Fleet:
    fleet = Fleet()
    cli.photo_transport = httpx.MockTransport(fleet)
    return fleet


Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(cli: Cli, photos: pathlib.Path, tmp_path: pathlib.Path) -> Compare:
    def do(*arguments: str) -> tuple[int, str, str]:
        ended = cli("quality", "compare", *arguments, "--photos", str(photos), "--out", str(tmp_path / "out"))
        return ended.code, ended.out, ended.err

    return do


def test_a_twin_is_ok_and_everything_is_written(cli: Cli, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    chosen = ("--strata", "person", "--out", str(tmp_path / "out"))
    ended = cli("quality", "compare", "http://v1:8083", "http://twin/", *chosen)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("twin is like v1:8083 in 12 pictures: mean CIEDE2000 0 ")
    assert len(ended.out.splitlines()) < 45
    assert {str(request.url) for request in fleet.seen} == {"http://v1:8083/repair", "http://twin/repair"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"] == "ok"
    assert len(report["pictures"]) == 12
    assert report["workers_say"] == {"old": ["v1"], "new": ["twin"]}
    with Image.open(tmp_path / "out" / "contact-sheet.jpg") as sheet:
        assert sheet.width > 1000


def test_another_style_is_drift_and_1_only_if_that_is_wanted(compare: Compare, fleet: Fleet) -> None:
    code, out, _ = compare("http://v1", "http://vivid")
    assert code == 0
    assert out.startswith("vivid drifts from v1: ")
    assert compare("http://v1", "http://vivid", "--strict")[0] == 1
    limits = ("--delta-e", "50", "--hue", "60", "--chroma", "100%", "--ssim", "0.5", "--strict")
    assert compare("http://v1", "http://vivid", *limits)[0] == 0, "the owner allows it"
    assert fleet.seen


def test_a_broken_version_is_1_and_named_with_its_worst_pictures(compare: Compare, fleet: Fleet) -> None:
    code, out, _ = compare("http://v1", "http://grey")
    assert code == 1
    assert out.startswith("grey is blocked: grey in 12 of 12 pictures (colourfulness down to 0.0, at least 3 wanted): ")
    assert out.count("▲ ") == 3
    assert fleet.seen


def test_programs_get_the_report(compare: Compare, fleet: Fleet, tmp_path: pathlib.Path) -> None:
    code, out, _ = compare("http://v1", "http://grey", "-o", "json")
    assert code == 1
    assert json.loads(out) == json.loads((tmp_path / "out" / "report.json").read_text())
    assert fleet.seen


def test_versions_of_a_service_are_asked_at_their_workers_in_turn(
    cli: Cli, compare: Compare, fleet: Fleet, tmp_path: pathlib.Path
) -> None:
    declare(cli, tmp_path)
    code, out, _ = compare("v1", "v2", "--service", "colorize")
    assert (code, out[:15]) == (0, "v2 is like v1 i")
    hosts = [str(request.url) for request in fleet.seen]
    assert [hosts.count(f"http://10.0.0.{host}:8083/repair") for host in (1, 2)] == [6, 6]
    assert hosts.count("http://[fd00::2]:8084/repair") == 12


def test_through_envoy_the_routes_that_pin_a_version_are_taken(
    cli: Cli, compare: Compare, fleet: Fleet, tmp_path: pathlib.Path
) -> None:
    declare(cli, tmp_path)
    code, out, _ = compare("v1", "v2", "--service", "colorize", "--through", "http://envoy:8080/")
    assert code == 0
    assert "both versions' workers say that they are envoy: are these two versions?" in out
    taken = {(str(one.url), one.headers.get("x-model-type"), one.headers.get("x-try")) for one in fleet.seen}
    assert taken == {
        ("http://envoy:8080/repair", "v1", None),
        ("http://envoy:8080/repair/v2", None, "1"),
    }


def test_folders_of_pictures_are_compared_like_versions(
    compare: Compare, photos: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for name, saturation in (("old", 1.0), ("new", 1.0)):
        (tmp_path / name).mkdir()
        for photo in photos.iterdir():
            (tmp_path / name / photo.name).write_bytes(paint(photo.read_bytes(), saturation))
    arguments = (str(tmp_path / "old"), str(tmp_path / "new"))
    assert compare(*arguments)[0] == 0
    (tmp_path / "new" / "5.png").unlink()
    code, out, _ = compare(*arguments)
    assert code == 1
    assert "is blocked: no answer in 1 of 12 pictures (no such file): 5" in out


def test_photos_of_ones_own_can_be_taken(compare: Compare, fleet: Fleet) -> None:
    code, out, err = compare("http://v1", "http://twin")
    assert (code, err) == (0, "")
    assert "twin is like v1 in 12 pictures" in out
    assert fleet.seen


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("v1", "http://twin"), 2, "OLD: 'v1' is neither an address nor a folder; add --service NAME"),
        (("http://v1", "ftp://twin"), 2, "NEW: 'ftp://twin' is not an HTTP address; write it like"),
        (("http://v1", "http://v1"), 2, "NEW: is the same as OLD"),
        (("http://v1", "http://twin", "--timeout", "soon"), 2, "--timeout: "),
        (("http://v1", "http://twin", "--chroma", "much"), 2, "--chroma: "),
        (("http://v1", "http://twin", "--path", "repair"), 2, "--path: 'repair' is no path"),
        (("http://v1", "http://twin", "--strata", "person"), 2, "--strata: chooses among the shipped photos"),
        (("v1", "v9", "--service", "colorize"), 4, "version of colorize 'v9' does not exist (known: v1, v2, v3)"),
        (
            ("v1", "v3", "--service", "colorize", "--through", "http://envoy"),
            2,
            "--through: no route of colorize pins v3 by header; declare one",
        ),
        (("http://v1", "http://twin", "--live"), 2, "--sample-token-file: is missing; name the file that the workers"),
        (("http://v1", "http://twin", "--minutes", "2"), 2, "--minutes: is for --live; add --live"),
        (("http://v1", "http://twin", "--sample-token-file", "."), 2, "--sample-token-file: is for --live; add --live"),
        (
            ("http://v1", "http://twin", "--live", "--sample-token-file", "."),
            2,
            "--sample-token-file: . cannot be read",
        ),
        (("v1", "v2", "--service", "paint"), 4, "service 'paint' does not exist"),
        (("http://closed", "http://twin"), 3, "http://closed/repair answered 404: "),
        (("http://ill", "http://twin"), 3, "ill: only 0 of 12 pictures of the old version can be used (answered 500: "),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_its_code(
    cli: Cli, compare: Compare, tmp_path: pathlib.Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    cli.photo_transport = httpx.MockTransport(Fleet(closed=404, ill=500))
    declare(cli, tmp_path)
    found = compare(*arguments)
    assert found[0] == code, found
    (line,) = found[2].splitlines()
    assert line.startswith(f"hueshift: {words}"), line


def test_a_new_version_that_answers_errors_is_blocked(cli: Cli, compare: Compare) -> None:
    cli.photo_transport = httpx.MockTransport(Fleet(ill=500))
    code, out, _ = compare("http://v1", "http://ill")
    assert code == 1
    assert out.startswith('ill is blocked: no answer in 12 of 12 pictures (answered 500: {"error":"out of order"}): ')


def test_only_the_comparison_needs_pillow() -> None:
    code = """
import sys
sys.modules["PIL"] = None
import controlplane.running
from controlplane.cli.main import run
from controlplane.cli.surroundings import Surroundings
sys.exit(run(["quality", "compare", "http://v1", "http://v2"], Surroundings()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    words = "hueshift: quality: needs the package pillow; install it with: pip install 'hueshift[quality]' [HS0002]"
    assert (done.returncode, done.stderr.strip()) == (2, words)


def test_live_pairs_are_fetched_from_the_workers_of_both_versions(cli: Cli, tmp_path: pathlib.Path) -> None:
    """The workers' side of it, Envoy's too, is tests/integration/test_quality_live.py."""
    (tmp_path / "token").write_text("0123456789abcdef\n")
    kept = {f"r-{place}": photo.data for place, photo in enumerate(photoset.load_shipped(["person"]))}
    asked: list[httpx.Request] = []

    def worker(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        parts = request.url.path.split("/")
        if len(parts) == 2:
            rows = [
                {"id": name, "path": "/repair", "version": request.url.host, "input_bytes": 1, "output_bytes": 1}
                | {"input_sha256": name}
                for name in kept
            ]
            return httpx.Response(200, json={"samples": rows if request.url.host != "10.0.0.2" else []})
        photo = kept[parts[2]]
        grey = request.url.host == "fd00::2"
        return httpx.Response(200, content=photo if parts[3] == "input" else paint(photo, 0.0 if grey else 1.0))

    cli.photo_transport = httpx.MockTransport(worker)
    declare(cli, tmp_path)
    given = ["--service", "colorize", "--live", "--sample-token-file", str(tmp_path / "token")]
    ended = cli("quality", "compare", "v1", "v2", *given, "--out", str(tmp_path / "out"))
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.startswith("v2 is blocked: grey in 12 of 12 pictures")
    assert {request.headers["authorization"] for request in asked} == {"Bearer 0123456789abcdef"}
    lists = {str(request.url) for request in asked if request.url.path == "/samples"}
    assert lists == {f"http://{host}/samples" for host in ("10.0.0.1:8083", "10.0.0.2:8083", "[fd00::2]:8084")}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["stratum"] for row in report["pictures"]} == {"live"}

    for option in (("--strata", "person"), ("--photos", "."), ("--through", "http://envoy")):
        ended = cli("quality", "compare", "v1", "v2", *given, *option)
        assert (ended.code, ended.err.startswith(f"hueshift: {option[0]}: is for photos that are sent")) == (2, True)
    del kept["r-0"], kept["r-1"], kept["r-2"], kept["r-3"], kept["r-4"]
    ended = cli("quality", "compare", "v1", "v2", *given)
    assert ended.code == 3
    assert ended.err.startswith(
        "hueshift: live requests: 7 pairs to compare (the old version's workers kept 7, the new"
    )


def test_networks_look_at_the_pairs_too_and_without_onnxruntime_that_is_said(
    compare: Compare, fleet: Fleet, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [(("a", "b"), "Sub", "d"), (("d",), "Abs", "e"), (("e",), "ReduceMean", "y")]
    own = tmp_path / "own.onnx"
    own.write_bytes(pack_model(nodes, inputs={"a": FREE, "b": FREE}, output=("y", (1, 1, 1, 1))))
    limits = ("--lpips", str(own), "--lpips-limit", "0.001", "--feature-distance", "0.002")
    _, out, err = compare("http://v1", "http://vivid", *limits)
    assert err == ""
    assert "feature distance 0." in out
    assert "LPIPS 0." in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0.002 < report["measures"]["feature_distance"]["low"] < report["measures"]["feature_distance"]["high"] < 0.3
    assert {"feature_distance", "lpips"} <= set(report["pictures"][0])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    _, out, _ = compare("http://v1", "http://vivid")
    assert "the feature distance was left out: it needs the package onnxruntime" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "feature_distance" not in report["measures"]
    assert any("feature distance was left out" in note for note in report["notes"])
    assert compare("http://v1", "http://vivid", "--lpips-limit", "0.1")[2].startswith("hueshift: --lpips-limit: ")
    assert fleet.seen


def declare(cli: Cli, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(PINNED)
    assert cli("apply", "-f", str(file)).code == 0
