"""A file server on loopback that does what servers and networks do, and a model whose file it serves."""

import contextlib
import dataclasses
import hashlib
import http.server
import re
import threading
from pathlib import Path
from typing import Final

from inference_worker.cards import ModelCard, ModelFile, Source
from inference_worker.catalogue import make_folder, record, verify
from inference_worker.fetching import Fetcher

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
    stall: threading.Event | None = None
    """Awaited before a connection is cut off."""


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
            if cut is not None and self.server.manners.stall is not None:
                self.wfile.flush()
                self.server.manners.stall.wait(30)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Stay silent."""


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


def check_whole(card: ModelCard) -> None:
    verify(card)
    assert names(card.folder) == ["m.onnx", "model.toml"]
