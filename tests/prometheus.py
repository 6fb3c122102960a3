"""A real Prometheus on loopback, and metrics that a test itself serves to it."""

import contextlib
import datetime as dt
import http.server
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import httpx

from controlplane.clock import SystemClock
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess
from tests.requirements import require

CLOCK = SystemClock()
NOBODY = 65534
START_WITHIN = dt.timedelta(seconds=60)


class Exporter:
    """Serves counters that grow as a test says, one value per version, in Prometheus's own format."""

    def __init__(self) -> None:
        self.port = 0
        self._lock = threading.Lock()
        self._at = CLOCK.steady()
        self._rates: dict[str, float] = {}
        self._values: dict[str, float] = {}

    def grow(self, name: str, *, version: str, rate: float) -> None:
        """Let a counter grow by *rate* a second from now on."""
        series = f'{name}{{version="{version}"}}'
        with self._lock:
            self._catch_up()
            self._rates[series] = rate
            self._values.setdefault(series, 0.0)

    def text(self) -> str:
        """Return all counters as they are now."""
        with self._lock:
            self._catch_up()
            return "".join(f"{series} {int(value)}\n" for series, value in self._values.items())

    def _catch_up(self) -> None:
        before, self._at = self._at, CLOCK.steady()
        for series, rate in self._rates.items():
            self._values[series] += rate * (self._at - before)


@contextlib.contextmanager
def running_exporter() -> Iterator[Exporter]:
    """Serve metrics on a port that the kernel chooses, from a thread, since Prometheus asks when it likes."""
    exporter = Exporter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exporter.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        exporter.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield exporter
        finally:
            server.shutdown()
            serving.join()


class PrometheusServer:
    """One server; it may be killed and started again, on the same port and data."""

    def __init__(self, program: str, folder: pathlib.Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/metrics-of/us"
        # What root need not run, root does not run.
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if os.geteuid() == 0 else ()
        self.process = ServerProcess(
            [
                *drop,
                program,
                f"--config.file={folder / 'prometheus.json'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.route-prefix=/metrics-of/us",  # as behind a proxy that many share
                "--log.level=warn",
            ],
            log_file=folder / "prometheus.log",
        )

    async def start(self) -> None:
        """Start it and wait until it answers."""
        await self.process.start()
        async with httpx.AsyncClient(trust_env=False) as client:

            async def ask() -> bool | None:
                self.process.check_alive()
                try:
                    return (await client.get(f"{self.url}/-/ready")).is_success or None
                except httpx.TransportError:
                    return None

            await wait_for_answer(ask, what="Prometheus", clock=CLOCK, at_most=START_WITHIN)


@contextlib.asynccontextmanager
async def running_prometheus(*targets: int) -> AsyncIterator[PrometheusServer]:
    """Start a server that asks *targets*, ports of loopback, every second; skip the test where there is none."""
    program = require("prometheus", "the Debian package prometheus")
    # Not in pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="hueshift-prometheus-") as name:
        folder = pathlib.Path(name)
        server = PrometheusServer(program, folder, free_ports(1)[0])
        _prepare(folder, targets)
        try:
            await server.start()
            yield server
        finally:
            await server.process.stop()


def _prepare(folder: pathlib.Path, targets: Sequence[int]) -> None:
    (folder / "data").mkdir()
    scrape = {"job_name": "test", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
    if os.geteuid() == 0:
        for path in (folder, folder / "data"):
            os.chown(path, NOBODY, NOBODY)
