"""`models pull` and what servers and networks do to a file on its way."""

import fcntl
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference_worker.cards import ModelCard
from inference_worker.errors import ModelError, PullError
from inference_worker.pulling import pull
from tests.file_server import CUT, DATA, SUM, FileServer, Told, check_whole, make_card, names

pytestmark = pytest.mark.integration

Serve = Callable[..., FileServer]


def begin(server: FileServer, card: ModelCard, told: Told) -> None:
    """A first pull that is cut off for good."""
    server.manners.cuts = [CUT]
    with pytest.raises(PullError, match=f"after {CUT} of {len(DATA)} bytes, 1 times; {CUT} bytes are kept, and the"):
        pull(card, told.make(attempts=1))
    assert names(card.folder) == ["m.onnx.part", "m.onnx.part.etag", "model.toml"]
    server.asked.clear()
    told.lines.clear()


def test_a_file_is_fetched_with_progress(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve()
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    pull(card, told.make())
    check_whole(card)
    shares = [int(share) for share in re.findall(r"^ *(\d+) %  \d\.\d MB$", told.text, re.MULTILINE)]
    assert len(shares) >= 2
    assert shares == sorted(set(shares))
    assert 34 <= shares[0] < shares[-1] <= 100
    assert told.lines[-1] == f"m.onnx is whole, SHA-256 {SUM}"


def test_what_is_here_already_is_not_asked_for(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve()
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    card.path.write_bytes(DATA)
    pull(card, told.make())
    assert server.asked == []
    assert told.lines == ["m.onnx is here, as its card says"]


def test_a_damaged_file_is_replaced(serve: Serve, told: Told, tmp_path: Path) -> None:
    card = make_card(tmp_path, f"{serve().url}/m.onnx")
    card.path.write_bytes(b"damaged")
    pull(card, told.make())
    check_whole(card)


def test_a_cut_connection_is_gone_on_from(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(cuts=[CUT, 700_000])
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    pull(card, told.make())
    check_whole(card)
    assert [span for _, span in server.asked] == [None, f"bytes={CUT}-", f"bytes={CUT + 700_000}-"]
    assert told.pauses == [1.0, 2.0]
    assert f"the connection was lost after {CUT} of {len(DATA)} bytes; trying again" in told.lines


def test_a_server_that_falls_silent_is_asked_again(serve: Serve, told: Told, tmp_path: Path) -> None:
    stall = threading.Event()
    server = serve(cuts=[CUT], stall=stall)
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    pull(card, told.make(timeout_s=1.5))
    stall.set()
    check_whole(card)
    assert "the connection was lost (timed out); trying again" in told.lines
    assert [span for _, span in server.asked] == [None, f"bytes={CUT}-"]


def test_a_pull_that_was_killed_goes_on(serve: Serve, told: Told, tmp_path: Path) -> None:
    stall = threading.Event()
    server = serve(cuts=[CUT], stall=stall)
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    arguments = [sys.executable, "-m", "inference_worker", "models", "pull", "night", "--models-dir", str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(" %  1." in line for line in process.stdout)
        process.kill()
    stall.set()
    server.asked.clear()
    pull(card, told.make())
    check_whole(card)
    (span,) = [span or "" for _, span in server.asked]
    assert CUT // 2 < int(span.removeprefix("bytes=").removesuffix("-")) <= CUT


@given(
    cuts=st.lists(st.integers(0, 5000), max_size=5),
    etag=st.sampled_from(['"one"', 'W/"weak"', None]),
    knows_ranges=st.booleans(),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_it_is_cut_what_arrives_is_whole(
    serve: Serve,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    etag: str | None,
    knows_ranges: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    data = DATA[:5001]
    server = serve(files={"/m.onnx": data}, cuts=list(cuts), etag=etag, knows_ranges=knows_ranges)
    sha256 = hashlib.sha256(data).hexdigest()
    card = make_card(tmp_path_factory.mktemp("models"), f"{server.url}/m.onnx", size=len(data), sha256=sha256)
    pull(card, Told().make())
    check_whole(card)


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_a_later_pull_goes_on(serve: Serve, told: Told, tmp_path: Path, etag: str | None) -> None:
    server = serve(etag=etag)
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    begin(server, card, told)
    pull(card, told.make())
    check_whole(card)
    assert server.asked == [("/m.onnx", f"bytes={CUT}-")]


@pytest.mark.parametrize("size", [len(DATA), None])
def test_a_part_that_is_complete_is_only_checked(serve: Serve, told: Told, tmp_path: Path, size: int | None) -> None:
    server = serve()
    card = make_card(tmp_path, f"{server.url}/m.onnx", size=size)
    (card.folder / "m.onnx.part").write_bytes(DATA)
    pull(card, told.make())
    check_whole(card)
    assert server.asked == ([] if size else [("/m.onnx", f"bytes={len(DATA)}-")])


def test_a_part_that_is_too_long_is_begun_anew(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve()
    card = make_card(tmp_path, f"{server.url}/m.onnx", size=None)
    (card.folder / "m.onnx.part").write_bytes(DATA + b"more")
    pull(card, told.make())
    check_whole(card)
    assert [span for _, span in server.asked] == [f"bytes={len(DATA) + 4}-", None]


def test_a_server_without_ranges_sends_all_of_it(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(knows_ranges=False)
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    begin(server, card, told)
    pull(card, told.make())
    check_whole(card)
    assert "the server sends all of it again" in told.lines


@pytest.mark.parametrize("minds_if_range", [True, False])
def test_a_file_that_has_changed_is_begun_anew(
    serve: Serve,
    told: Told,
    tmp_path: Path,
    minds_if_range: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    server = serve(files={"/m.onnx": DATA[::-1]}, etag='"old"', minds_if_range=minds_if_range)
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    begin(server, card, told)
    server.manners.files["/m.onnx"], server.manners.etag = DATA, '"new"'
    pull(card, told.make())
    check_whole(card)


def test_a_wrong_checksum_leaves_nothing(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(files={"/m.onnx": DATA[::-1]})
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    with pytest.raises(PullError, match=f"has SHA-256 .*, and its card says {SUM}; it was deleted"):
        pull(card, told.make())
    assert names(card.folder) == ["model.toml"]


def test_two_halves_of_different_files_are_found(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(files={"/m.onnx": DATA[::-1]}, etag=None)
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    begin(server, card, told)
    server.manners.files["/m.onnx"] = DATA
    with pytest.raises(PullError, match="it was deleted"):
        pull(card, told.make())
    pull(card, told.make())
    check_whole(card)


def test_a_wrong_size_is_refused_before_it_is_fetched(serve: Serve, told: Told, tmp_path: Path) -> None:
    card = make_card(tmp_path, f"{serve().url}/m.onnx", size=len(DATA) + 1)
    with pytest.raises(PullError, match=f"has {len(DATA)} bytes, and its card says {len(DATA) + 1}"):
        pull(card, told.make())
    assert names(card.folder) == ["model.toml"]


@pytest.mark.parametrize("tells_length", [True, False])
def test_no_more_is_fetched_than_allowed(
    serve: Serve,
    told: Told,
    tmp_path: Path,
    tells_length: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    card = make_card(tmp_path, f"{serve(tells_length=tells_length).url}/m.onnx", size=None)
    with pytest.raises(PullError, match="--max-mb"):
        pull(card, told.make(max_bytes=2**20))
    assert names(card.folder) == ["model.toml"]


def test_a_server_that_tells_no_length_is_believed_by_the_checksum(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(tells_length=False, cuts=[CUT])
    card = make_card(tmp_path, f"{server.url}/m.onnx", size=None)
    with pytest.raises(PullError, match="it was deleted"):
        pull(card, told.make())
    pull(card, told.make())
    check_whole(card)


def test_what_is_not_there_is_said_at_once(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve()
    card = make_card(tmp_path, f"{server.url}/other.onnx")
    with pytest.raises(PullError, match=r"/other\.onnx was answered with 404 Not Found; see to the address"):
        pull(card, told.make())
    assert len(server.asked) == 1
    assert names(card.folder) == ["model.toml"]


def test_a_server_in_trouble_is_asked_again_but_not_for_ever(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(statuses=[503, 429])
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    pull(card, told.make())
    check_whole(card)
    card.path.unlink()
    server.manners.statuses = [500] * 20
    server.asked.clear()
    with pytest.raises(PullError, match="the server answered 500, 6 times; 0 bytes are kept"):
        pull(card, told.make())
    assert len(server.asked) == 6


def test_nobody_there_is_one_line(told: Told, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    card = make_card(tmp_path, f"http://127.0.0.1:{port}/m.onnx")
    with pytest.raises(PullError, match=r"no answer .*refused.*, 2 times"):
        pull(card, told.make(attempts=2))


def test_a_redirect_is_followed_on_this_machine_only(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve()
    card = make_card(tmp_path, f"{serve(redirect=f'{server.url}/m.onnx').url}/anything")
    pull(card, told.make())
    check_whole(card)
    outside = make_card(tmp_path, f"{serve(redirect='http://192.0.2.1/m.onnx').url}/m.onnx")
    outside.path.unlink()
    with pytest.raises(PullError, match=r"url: http://192\.0\.2\.1/m\.onnx is plain http; give https"):
        pull(outside, told.make())
    looking = make_card(tmp_path, f"{serve(redirect='file:///etc/passwd').url}/m.onnx")
    with pytest.raises(PullError, match=r"302|is no address"):
        pull(looking, told.make())


def test_a_disk_that_takes_nothing_is_named(serve: Serve, told: Told, tmp_path: Path) -> None:
    card = make_card(tmp_path, f"{serve().url}/m.onnx")
    (card.folder / "m.onnx.part").mkdir()
    with pytest.raises(PullError, match=r"m\.onnx\.part cannot be written \(Is a directory\); name a folder of yours"):
        pull(card, told.make())


def test_only_one_pulls_into_a_folder(told: Told, tmp_path: Path) -> None:
    card = make_card(tmp_path, "https://models.example/m.onnx")
    held = os.open(card.folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PullError, match="is being pulled into by another process"):
            pull(card, told.make())
    finally:
        os.close(held)


def test_a_file_without_an_address_is_named(told: Told, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"night/model\.toml: files: m\.onnx has no url; add it"):
        pull(make_card(tmp_path, None), told.make())
