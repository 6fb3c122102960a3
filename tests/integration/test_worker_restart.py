"""Real workers whose device fails for good: who waits is answered, the process ends, and another takes its port."""

import asyncio
import os
import re
import signal

import httpx
import pytest

from inference_worker.catalogue import SHIPPED
from inference_worker.supervising import EXIT_DEVICE
from tests.envoy import free_port
from tests.programs import SERVE, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
PHOTO = (SHIPPED.parent / "samples" / "koala.jpg").read_bytes()


def make_client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)


async def post(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/repair?force=true", content=PHOTO, headers={"content-type": "image/jpeg"})


async def test_a_lost_device_ends_the_worker_with_its_own_code_and_nobody_is_left_without_an_answer() -> None:
    flags = ("--port", "0", "--device", "cpu", "--fault-device-after", "1")
    async with running((*SERVE, *flags)) as worker:
        found = re.search(r"port=(\d+)", await worker.wait_line("worker.started"))
        assert found
        await worker.wait_line("model.became_ready")
        async with make_client(int(found[1])) as client, asyncio.TaskGroup() as tasks:
            posts = [tasks.create_task(post(client)) for _ in range(8)]
        answers = [task.result() for task in posts]
        assert await worker.wait_ended() == EXIT_DEVICE
    assert sorted(answer.status_code for answer in answers) == [200] + [503] * 7
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"5"}
    assert re.search(r"worker\.stopped exit_code=75 accepted=(\d+) answered=\1$", worker.log[-1])


async def test_who_is_still_sending_a_photo_does_not_hold_the_end_up() -> None:
    flags = ("--port", "0", "--device", "cpu", "--fault-device-after", "0")
    async with running((*SERVE, *flags)) as worker:
        found = re.search(r"port=(\d+)", await worker.wait_line("worker.started"))
        assert found
        await worker.wait_line("model.became_ready")
        _, slow = await asyncio.open_connection("127.0.0.1", int(found[1]))
        slow.write(b"POST /repair HTTP/1.1\r\nhost: w\r\ncontent-type: image/png\r\ncontent-length: 99\r\n\r\nhalf")
        await slow.drain()
        async with make_client(int(found[1])) as client:
            assert (await post(client)).status_code == 503
        async with asyncio.timeout(15):  # --drain-s and --deadline-s are a minute
            assert await worker.wait_ended() == EXIT_DEVICE
        slow.close()


async def test_a_supervised_worker_comes_back_on_its_port_and_stops_when_told() -> None:
    port = free_port()
    flags = ("--port", str(port), "--supervise", "--fault-device-after", "2")
    async with running((*SERVE, *flags)) as worker, make_client(port) as client:
        await worker.wait_line("model.became_ready")
        (first,) = worker.children
        before = [(await post(client)).status_code for _ in range(3)]
        assert "code=75" in await worker.wait_line("worker.will_restart")
        await worker.wait_line("model.became_ready")
        (second,) = worker.children
        after = await post(client)
        os.kill(second, signal.SIGKILL)  # as the kernel does when memory runs out
        assert "code=-9" in await worker.wait_line("worker.will_restart")
        await worker.wait_line("model.became_ready")
        again = await post(client)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait_ended() == 0
    assert before == [200, 200, 503]
    assert (after.status_code, again.status_code) == (200, 200)
    assert first != second
    assert "worker.stopped exit_code=0" in worker.log[-1]


async def test_a_worker_does_not_outlive_its_supervisor() -> None:
    port = free_port()
    async with running((*SERVE, "--port", str(port), "--supervise")) as worker:
        await worker.wait_line("model.became_ready")
        worker.process.kill()
        assert await worker.wait_ended() == -signal.SIGKILL
    assert "worker.stopped exit_code=0" in worker.log[-1]  # it went as on SIGTERM


def supervise(code: str, **patience: float) -> tuple[str, ...]:
    """A program that supervises another one, written in *code*."""
    told = ", ".join(f"{name}={value!r}" for name, value in patience.items())
    program = f"""
import asyncio, logging, sys
from inference_worker.clock import SystemClock
from inference_worker.supervising import Patience, supervise
logging.basicConfig(level=logging.INFO)
command = [sys.executable, "-c", {code!r}]
sys.exit(asyncio.run(supervise(command, clock=SystemClock(), patience=Patience({told}))))
"""
    return ("-c", program)


async def test_a_worker_that_keeps_dying_is_left_to_somebody_else() -> None:
    dying = "import os, sys; print('started', file=sys.stderr, flush=True); os._exit(75)"
    async with running(supervise(dying, first_s=0.01, longest_s=0.02, most=3)) as program:
        assert await program.wait_ended() == EXIT_DEVICE
    assert program.log.count("started") == 4
    assert sum("worker.will_restart" in line for line in program.log) == 3
    assert sum("worker.was_left" in line for line in program.log) == 1


async def test_a_start_that_is_refused_is_not_tried_again() -> None:
    async with running((*SERVE, "--port", str(free_port()), "--supervise", "--model", "nope")) as program:
        assert await program.wait_ended() == 2
    assert sum(line.startswith("error: --model") for line in program.log) == 1
    assert not any("will_restart" in line for line in program.log)


async def test_who_is_told_to_stop_while_nothing_runs_stops() -> None:
    async with running(supervise("import os; os._exit(75)", first_s=1000.0, longest_s=1000.0)) as program:
        await program.wait_line("worker.will_restart")
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait_ended() == 0
