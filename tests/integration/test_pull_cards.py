"""`models pull`: cards on a server, the checkpoints of DDColor's authors, addresses, and the command line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_worker import __main__ as command
from inference_worker.cards import ModelCard, render_card
from inference_worker.catalogue import find_card, verify
from inference_worker.ddcolor.published import Published
from inference_worker.errors import ModelError, PullError
from inference_worker.fetching import check_url
from inference_worker.pulling import pull, pull_from, pull_published
from tests.file_server import CUT, DATA, SUM, FileServer, Told, check_whole, make_card, names

pytestmark = pytest.mark.integration

Serve = Callable[..., FileServer]


def publish(server: FileServer, tmp_path: Path) -> ModelCard:
    """Put a card beside the server's file, without the file's address."""
    card = make_card(tmp_path / "theirs", None)
    server.manners.files["/night/model.toml"] = render_card(card).encode()
    server.manners.files["/night/m.onnx"] = DATA
    return card


def test_a_model_comes_by_its_cards_address(serve: Serve, told: Told, tmp_path: Path) -> None:
    server, models = serve(), tmp_path / "models"
    card = publish(server, tmp_path)
    pull_from(f"{server.url}/night/model.toml", models, told.make())
    made = find_card(models, "night")
    check_whole(made)
    assert made.checksum == card.checksum
    assert made.files[0].url == f"{server.url}/night/m.onnx"
    server.asked.clear()
    pull_from(f"{server.url}/night/model.toml", models, told.make())
    assert [path for path, _ in server.asked] == ["/night/model.toml"]


def test_a_model_without_its_files_is_no_model_yet(serve: Serve, told: Told, tmp_path: Path) -> None:
    server, models = serve(cuts=[None, CUT]), tmp_path / "models"
    publish(server, tmp_path)
    with pytest.raises(PullError, match="bytes are kept"):
        pull_from(f"{server.url}/night/model.toml", models, told.make(attempts=1))
    assert names(models / "night") == ["m.onnx.part", "m.onnx.part.etag"]
    pull_from(f"{server.url}/night/model.toml", models, told.make())
    check_whole(find_card(models, "night"))


def test_another_model_of_that_name_stays(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve()
    card = publish(server, tmp_path)
    with pytest.raises(ModelError, match="holds another night; remove it, or give another --models-dir"):
        pull_from(f"{server.url}/night/model.toml", tmp_path / "theirs", told.make())
    assert find_card(tmp_path / "theirs", "night") == card


def test_half_a_card_is_no_card(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(cuts=[200])
    publish(server, tmp_path)
    with pytest.raises(PullError, match=r"night/model\.toml was cut off after 200 of \d+ bytes; try again"):
        pull_from(f"{server.url}/night/model.toml", tmp_path / "models", told.make())
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"name = 3", "model.toml: name: 3 is no text"),
        (b'name = "../x"', "name: '../x' does not fit"),
        (b'name = "x"\nalias_of = "v1"', "alias_of: an alias has no files; pull the model that it names"),
        (b'name = "x"', "model.toml: family: missing; add it"),
        (b"\xff\xfe", "is no text; give the address of a model.toml"),
        (b"#" * 300_000, "has more than 262144 bytes; give the address of a model.toml"),
        (b"<html>", "no valid TOML"),
    ],
)
def test_a_wrong_card_leaves_nothing(serve: Serve, told: Told, tmp_path: Path, text: bytes, words: str) -> None:
    server = serve(files={"/model.toml": text})
    with pytest.raises((ModelError, PullError), match=re.escape(words)):
        pull_from(f"{server.url}/model.toml", tmp_path / "models", told.make())
    assert not (tmp_path / "models").exists()


# -- what DDColor's authors publish ------------------------------------------------------------------------------------


def offer(server: FileServer) -> Published:
    """A checkpoint of theirs that lies on the test's server."""
    return Published(name="ddcolor_tiny", url=f"{server.url}/ddcolor_tiny.pth", about="DDColor tiny")


def test_what_came_first_is_recorded_and_said(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(files={"/ddcolor_tiny.pth": DATA})
    card = pull_published(offer(server), tmp_path, told.make())
    assert find_card(tmp_path, "ddcolor_tiny") == card
    verify(card)
    assert card.checksum == f"sha256:{SUM}"
    assert "checksum not known: recorded on first download" in told.lines[0]
    assert told.lines[-1].startswith(f"recorded sha256:{SUM}: compare it")
    card.path.unlink()
    server.manners.files["/ddcolor_tiny.pth"] = DATA[::-1]
    with pytest.raises(PullError, match="it was deleted"):
        pull(card, told.make())


def test_without_a_checksum_nothing_is_pieced_together_by_chance(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve(files={"/ddcolor_tiny.pth": DATA}, etag='W/"weak"', cuts=[CUT])
    pull_published(offer(server), tmp_path, told.make())
    assert [span for _, span in server.asked] == [None, None]
    (tmp_path / "ddcolor_tiny" / "model.toml").unlink()
    server.manners.etag, server.manners.cuts = '"strong"', [CUT]
    pull_published(offer(server), tmp_path, told.make())
    assert [span for _, span in server.asked[2:]] == [None, f"bytes={CUT}-"]
    server.manners.tells_length = False
    with pytest.raises(PullError, match="is of unknown size and checksum, so nothing would tell if it is whole"):
        pull_published(offer(server), tmp_path, told.make())


# -- addresses and the command line ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://models.example/m.onnx", "is plain http; give https, or --insecure-http"),
        ("http://127.0.0.1.example/m.onnx", "is plain http"),
        ("http://10.0.0.1/m.onnx", "is plain http"),
        ("file:///etc/passwd", "is no address of a file"),
        ("ftp://models.example/m.onnx", "is no address of a file"),
        ("https:///m.onnx", "is no address of a file"),
        ("https://me:secret@models.example/m.onnx", "models.example is asked without a name; leave user and password"),
    ],
)
def test_addresses_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(PullError, match=re.escape(words)) as caught:
        check_url(url, is_plain_allowed=False)
    assert "secret" not in str(caught.value)


def test_addresses_that_are_taken() -> None:
    for url in ("https://models.example/m", "http://127.0.0.1:1/m", "http://[::1]:1/m", "http://localhost/m"):
        check_url(url, is_plain_allowed=False)
    check_url("http://models.example/m", is_plain_allowed=True)
    with pytest.raises(PullError, match="is plain http"):
        check_url("http://127.0.0.1/m", is_plain_allowed=False, before="https://models.example/m")


def test_the_command_pulls_and_verifies(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_card(tmp_path, f"{serve().url}/m.onnx")
    assert command.main(["models", "pull", "night", "--models-dir", str(tmp_path)]) == 0
    assert command.main(["models", "verify", "--models-dir", str(tmp_path)]) == 0
    assert re.search(rf"(?m)^night +ok sha256:{SUM}$", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "error: name: give the name of a model, or --from URL"),
        (["night", "--from", "https://models.example/model.toml"], 2, "error: name: give the name of a model, or"),
        (["night", "--max-mb", "0"], 2, "error: --max-mb: 0 is impossible"),
        (["night"], 2, "error: --models-dir: "),
        (["--from", "http://models.example/model.toml"], 1, "error: url: http://models.example/model.toml is plain"),
    ],
)
def test_impossible_pulls_are_one_line(
    arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["models", "pull", *arguments, "--models-dir", str(tmp_path)]) == code
    text = capsys.readouterr().err
    assert text.startswith(words)
    assert text.count("\n") == 1
