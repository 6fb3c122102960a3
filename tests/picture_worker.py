"""A worker of one line of arithmetic: its answer follows from the photo, so that results can be checked byte by byte.

It serves from a thread, since whoever it works for is a process of its own. It counts what it was asked for by job.
"""

import collections
import contextlib
import dataclasses
import http.server
import threading
from collections.abc import Iterator

from tests.small_pictures import make_png


def coloured(photo: bytes) -> bytes:
    """Return what the worker makes of *photo*: a real picture, so that it is taken for one."""
    return make_png(photo, channels=3)


@dataclasses.dataclass
class PictureWorker:
    """What a test may set, and what it may look at."""

    version: str = "v1"
    port: int = 0
    status: int = 200
    is_away: threading.Event = dataclasses.field(default_factory=threading.Event)
    """While set, every request is 503."""
    slow_s: float = 0.0
    asked: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    order: list[str] = dataclasses.field(default_factory=list)
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    photos: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """What there is to fetch, by path."""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


@contextlib.contextmanager
def running_worker(**behaviour: object) -> Iterator[PictureWorker]:
    """Serve on a port that the kernel chooses."""
    worker = PictureWorker(**behaviour)  # type: ignore[arg-type] # passed through
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = worker.photos.get(self.path, b"fine")
            self._answer(200, found, "application/octet-stream")

        def do_POST(self) -> None:
            photo = self.rfile.read(int(self.headers["content-length"]))
            job = self.headers.get("x-job-id", "")
            with worker.lock:
                worker.asked[job] += 1
                worker.order.append(job)
                worker.headers = {name.lower(): value for name, value in self.headers.items()}
            if worker.slow_s:
                ended.wait(worker.slow_s)
            if worker.is_away.is_set():
                self._answer(503, b"away", "text/plain")
            elif worker.status != 200:
                self._answer(worker.status, b'{"error": "told to"}', "application/json")
            else:
                self._answer(200, coloured(photo), "image/png")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            with contextlib.suppress(OSError):  # whoever asked was killed
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("x-model-version", worker.version)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Say nothing of those who hang up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        worker.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield worker
        finally:
            ended.set()
            server.shutdown()
            serving.join()
