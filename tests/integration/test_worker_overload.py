"""A real worker process under several times its capacity: nothing crashes or grows, and stopping it loses nothing."""

import asyncio
import collections
import contextlib
import dataclasses
import io
import re
import signal
import sys
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.integration

MAX_GROWTH_BYTES = 150_000_000
JPEG = {"content-type": "image/jpeg", "accept": "image/jpeg"}


def make_photo(side: int = 320) -> bytes:
    y, x = np.mgrid[0:side, 0:side]
    level = np.clip(128 + 100 * np.sin(x / 11) * np.cos(y / 17), 0, 255).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(level).save(target, "JPEG", quality=90)
    return target.getvalue()


PHOTO = make_photo()


@dataclasses.dataclass
class Worker:
    """A worker process, and what it has logged since it was ready."""

    url: str
    process: asyncio.subprocess.Process
    log: list[str] = dataclasses.field(default_factory=list)

    async def end(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, and return its exit code once it has ended."""
        self.process.send_signal(sig)
        return await self.wait_ended()

    async def wait_ended(self) -> int:
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            self.log += (await self.process.stderr.read()).decode().splitlines()
            return await self.process.wait()

    def read_counts(self) -> tuple[int, int]:
        """Requests accepted and requests answered, by its last line."""
        found = re.search(r"worker\.stopped .*accepted=(\d+) answered=(\d+)", "\n".join(self.log))
        assert found, self.log
        return int(found[1]), int(found[2])


@contextlib.asynccontextmanager
async def run_worker(*flags: str) -> AsyncIterator[Worker]:
    """Start `hueshift-worker serve` on a free port; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_worker", "serve", "--model", "v1", "--port", "0", *flags),
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    try:
        port = ""
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b"model.became_ready" not in (line := await process.stderr.readline()):
                assert line, "the worker ended before it was ready"
                if started := re.search(rb"worker\.started .*port=(\d+)", line):
                    port = started[1].decode()
        yield Worker(f"http://127.0.0.1:{port}", process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def connect(worker: Worker) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=worker.url, limits=limits, timeout=60, trust_env=False)


async def read_metric(client: httpx.AsyncClient, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", (await client.get("/metrics")).text, re.MULTILINE)
    assert found, name
    return float(found[1])


async def test_several_times_the_capacity_is_refused_and_the_worker_stays_small() -> None:
    answers: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)

    async with run_worker("--queue", "8") as worker, connect(worker) as client:
        for _ in range(20):
            await client.post("/repair", content=PHOTO, headers=JPEG)
        before = await read_metric(client, "process_resident_memory_bytes")

        async def ask(kind: str, headers: dict[str, str], body: bytes, times: int) -> None:
            for _ in range(times):
                answer = await client.post("/repair", content=body, headers=JPEG | headers)
                answers[kind][answer.status_code] += 1
                if answer.status_code in {429, 503}:
                    assert int(answer.headers["retry-after"]) >= 1
                    assert answer.json()["error"]

        async def leave_early(times: int) -> None:
            for _ in range(times):
                try:
                    answer = await client.post("/repair", content=PHOTO, headers=JPEG, timeout=0.04)
                except httpx.TimeoutException:
                    answers["leaving"][0] += 1
                else:
                    answers["leaving"][answer.status_code] += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(40):
                tasks.create_task(ask("patient", {}, PHOTO, 8))
                tasks.create_task(ask("bulk", {"x-priority": "bulk"}, PHOTO, 3))
            for _ in range(8):
                tasks.create_task(ask("hurried", {"x-envoy-expected-rq-timeout-ms": "120"}, PHOTO, 5))
                tasks.create_task(ask("broken", {}, PHOTO[:900], 5))
                tasks.create_task(leave_early(5))
        after = await read_metric(client, "process_resident_memory_bytes")
        calm = await client.post("/repair", content=PHOTO, headers=JPEG)
        ready = await client.get("/readyz")
        inside = await read_metric(client, "hueshift_worker_requests_inside")
        code = await worker.end()

    assert set(answers["patient"]) | set(answers["bulk"]) <= {200, 429}
    assert set(answers["hurried"]) <= {200, 429, 503, 504}
    assert set(answers["broken"]) <= {422, 429}
    assert set(answers["leaving"]) <= {0, 200, 429}
    assert answers["patient"][200] > 20
    assert answers["patient"][429] > 80, "this was no overload"
    assert after - before < MAX_GROWTH_BYTES
    assert (calm.status_code, ready.status_code, inside, code) == (200, 200, 0, 0)


async def test_sigterm_under_load_loses_no_accepted_request() -> None:
    seen: collections.Counter[str] = collections.Counter()
    loaded = asyncio.Event()

    async with run_worker("--queue", "12") as worker, asyncio.TaskGroup() as tasks:

        async def ask() -> None:
            async with connect(worker) as client:
                while True:
                    try:
                        answer = await client.post("/repair", content=PHOTO, headers=JPEG)
                    except httpx.TransportError:
                        return  # the listener is closed, or the connection ended while nothing was asked on it
                    seen[str(answer.status_code)] += 1
                    if answer.status_code == 200:
                        Image.open(io.BytesIO(answer.content)).verify()
                    if seen["200"] >= 40:
                        loaded.set()

        for _ in range(24):
            tasks.create_task(ask())
        await loaded.wait()
        code = await worker.end()

    accepted, answered = worker.read_counts()
    assert code == 0
    assert accepted == answered == seen["200"]
    assert set(seen) <= {"200", "429"}
    assert seen["429"] > 0


async def test_who_heeds_readiness_never_sees_a_worker_go() -> None:
    """As Envoy with its health checks: what is sent while the worker was last seen ready is answered."""
    seen: collections.Counter[int] = collections.Counter()
    loaded = asyncio.Event()
    is_ready = True

    async with run_worker("--queue", "64", "--linger-s", "2") as worker, asyncio.TaskGroup() as tasks:

        async def check_health() -> None:
            nonlocal is_ready
            async with connect(worker) as client:
                while is_ready:
                    is_ready = (await client.get("/readyz")).status_code == 200

        async def ask() -> None:
            async with connect(worker) as client:
                while is_ready:
                    answer = await client.post("/repair", content=PHOTO, headers=JPEG)
                    seen[answer.status_code] += 1
                    if seen[200] >= 30:
                        loaded.set()

        tasks.create_task(check_health())
        for _ in range(8):
            tasks.create_task(ask())
        await loaded.wait()
        code = await worker.end()

    assert code == 0
    assert set(seen) == {200}
    assert worker.read_counts() == (seen[200], seen[200])


async def test_injected_lack_of_memory_costs_no_request() -> None:
    flags = ("--queue", "64", "--max-batch", "8", "--fault-oom-above", "2")
    async with run_worker(*flags) as worker, connect(worker) as client:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(client.post("/repair", content=PHOTO, headers=JPEG)) for _ in range(40)]
        ran_out = await read_metric(client, "hueshift_worker_out_of_memory_total")
        budget = await read_metric(client, 'hueshift_worker_run_budget_pixels{model="v1"}')
        code = await worker.end()
    assert [task.result().status_code for task in asked] == [200] * 40
    assert ran_out > 0
    assert budget < 8 * 192 * 192
    assert code == 0


async def test_a_second_signal_ends_the_lingering() -> None:
    async with run_worker("--linger-s", "3600") as worker, connect(worker) as client:
        worker.process.send_signal(signal.SIGTERM)
        while (await client.get("/readyz")).status_code == 200:
            pass
        lingering = await client.post("/repair", content=PHOTO, headers=JPEG)
        code = await worker.end()
    assert (lingering.status_code, lingering.headers["connection"], code) == (200, "close", 0)
