"""Somebody who is told of jobs' ends: verifies by a library of the Standard Webhooks specification, not by our code.

It serves from a thread, since whoever calls it may be a process of its own.
"""

import contextlib
import dataclasses
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import standardwebhooks


@dataclasses.dataclass
class Receiver:
    """What a test may set, and what it may look at."""

    port: int = 0
    secret: str = ""
    """What calls must be signed with; "" takes all."""
    status: int = 204
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of the answers."""
    answer: bytes = b""
    """What those say that are verified."""
    hangs: threading.Event = dataclasses.field(default_factory=threading.Event)
    """While set, nothing is answered."""
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)
    calls: int = 0
    heads: list[dict[str, str]] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)
    bodies: dict[str, set[bytes]] = dataclasses.field(default_factory=dict)
    """All that came, by webhook-id, whatever was answered."""
    taken: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """What was verified and answered well, by the job's id."""
    refused: list[str] = dataclasses.field(default_factory=list)
    tls: ssl.SSLContext | None = None
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?token=s3cret"


@contextlib.contextmanager
def running_receiver(**behaviour: object) -> Iterator[Receiver]:
    """Serve on a port that the kernel chooses."""
    receiver = Receiver(**behaviour)  # type: ignore[arg-type] # passed through

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            head = {name.lower(): value for name, value in self.headers.items()}
            with receiver.lock:
                receiver.calls += 1
                receiver.heads.append(head)
                receiver.paths.append(self.path)
                receiver.bodies.setdefault(head.get("webhook-id", ""), set()).add(body)
            while receiver.hangs.is_set() and not receiver.ended.wait(0.02):
                pass
            with contextlib.suppress(OSError):  # who called may have had enough, or died
                self._answer(body, head)

        def _answer(self, body: bytes, head: dict[str, str]) -> None:
            answer = b""
            try:
                if receiver.secret:
                    standardwebhooks.Webhook(receiver.secret).verify(body, head)
            except standardwebhooks.WebhookVerificationError as exc:
                receiver.refused.append(str(exc))
                self.send_response(401)
            else:
                answer = receiver.answer
                self.send_response(receiver.status)
                if receiver.status < 300:
                    event = json.loads(body) if body.startswith(b"{") else {}
                    with receiver.lock:
                        receiver.taken.setdefault(event.get("data", {}).get("id", ""), []).append(event)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Say nothing of those who hang up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        if receiver.tls is not None:
            server.socket = receiver.tls.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield receiver
        finally:
            receiver.ended.set()
            server.shutdown()
            serving.join()
