"""`hueshift-worker models pull` against a file server on loopback that does what servers and networks do."""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.server
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from inference_worker import __main__ as command
from inference_worker.cards import ModelCard, ModelFile, Source, render_card
from inference_worker.catalogue import find_card, make_folder, record, verify
from inference_worker.ddcolor.published import Published
from inference_worker.errors import ModelError, PullError
from inference_worker.fetching import Fetcher, check_url
from inference_worker.pulling import pull, pull_from, pull_published

pytestmark = pytest.mark.integration

DATA: Final = bytes(range(256)) * 12_000  # 3 MB, so that a cut lies between two reads
SUM: Final = hashlib.sha256(DATA).hexdigest()
CUT: Final = 1_300_000


@dataclasses.dataclass(slots=True)
class Manners:
    """How the server treats its next answers."""

    files: dict[str, bytes]
    etag: str | None = '"one"'
    cuts: list[int | None] = dataclasses.field(default_factory=list)
    """Bytes after which an answer is cut off; None lets it pass, and so does the end of the list."""
    statuses: list[int] = dataclasses.field(default_factory=list)
    """Answered instead of the first requests."""
    knows_ranges: bool = True
    minds_if_range: bool = True
    tells_length: bool = True
    redirect: str | None = None


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `manners.files`, and notes the range that each request asked for."""

    daemon_threads = True

    def __init__(self, manners: Manners) -> None:
        super().__init__(("127.0.0.1", 0), FilePages)
        self.manners = manners
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class FilePages(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        manners = self.server.manners
        self.server.asked.append((self.path, self.headers.get("Range")))
        if manners.statuses:
            self._answer(manners.statuses.pop(0), b"")
        elif manners.redirect is not None:
            self._answer(302, b"", {"Location": manners.redirect})
        elif self.path not in manners.files:
            self._answer(404, b"")
        else:
            self._send_file(manners, manners.files[self.path])

    def _send_file(self, manners: Manners, data: bytes) -> None:
        headers = {} if manners.etag is None else {"ETag": manners.etag}
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = not manners.minds_if_range or self.headers.get("If-Range", manners.etag) == manners.etag
        if found is None or not manners.knows_ranges or not is_same:
            self._answer(200, data, headers)
        elif int(found[1]) >= len(data):
            self._answer(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        else:
            start = int(found[1])
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._answer(206, data[start:], headers | {"Content-Range": span})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.manners.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.manners.cuts.pop(0) if body and self.server.manners.cuts else None
        with contextlib.suppress(OSError):  # the client may have had enough
            self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Stay silent."""


Serve = Callable[..., FileServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(**manners: object) -> FileServer:
            server = stack.enter_context(FileServer(Manners(**{"files": {"/m.onnx": DATA}} | manners)))  # type: ignore[arg-type] # by name
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


@dataclasses.dataclass(slots=True)
class Told:
    """What the command said, and how long it would have waited."""

    lines: list[str] = dataclasses.field(default_factory=list)
    pauses: list[float] = dataclasses.field(default_factory=list)

    def make(self, **terms: object) -> Fetcher:
        return Fetcher(say=self.lines.append, pause=self.pauses.append, **terms)  # type: ignore[arg-type] # by name

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def told() -> Told:
    return Told()


def make_card(models: Path, url: str | None, *, size: int | None = len(DATA), sha256: str = SUM) -> ModelCard:
    source = Source(licence="CC0", origin="this test")
    card = ModelCard(
        name="night",
        version="1",
        about="a model",
        folder=make_folder(models, "night"),
        files=(ModelFile(name="m.onnx", sha256=sha256, size_bytes=size, url=url),),
        weights=source,
        data=source,
        input_px=192,
    )
    record(models, card)
    return card


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def begin(server: FileServer, card: ModelCard, told: Told) -> None:
    """A first pull that is cut off for good."""
    server.manners.cuts = [CUT]
    with pytest.raises(PullError, match=f"after {CUT} of {len(DATA)} bytes, 1 times; {CUT} bytes are kept, and the"):
        pull(card, told.make(attempts=1))
    assert names(card.folder) == ["m.onnx.part", "m.onnx.part.etag", "model.toml"]
    server.asked.clear()
    told.lines.clear()


def check_whole(card: ModelCard) -> None:
    verify(card)
    assert names(card.folder) == ["m.onnx", "model.toml"]


def test_a_file_is_fetched_with_progress(serve: Serve, told: Told, tmp_path: Path) -> None:
    server = serve()
    card = make_card(tmp_path, f"{server.url}/m.onnx")
    pull(card, told.make())
    check_whole(card)
    assert re.findall(r"^ *(\d+) %  (\d\.\d) MB$", told.text, re.MULTILINE)[0] == ("34", "1.0")
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


# -- a card on a server ------------------------------------------------------------------------------------------------


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
    assert f"night      ok sha256:{SUM}\n" in capsys.readouterr().out


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
