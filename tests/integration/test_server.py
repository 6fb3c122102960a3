"""Servers under test as processes: killed, started again, and never left behind."""

import asyncio
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.errors import UnavailableError
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import is_listening

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
AT_MOST = dt.timedelta(seconds=30)
OWNER = """
import asyncio, sys
from pathlib import Path
from controlplane.lab.server import ServerProcess
async def main():
    await ServerProcess([sys.executable, "-m", "http.server", sys.argv[1]], log_file=Path(sys.argv[2])).start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


def listening(port: int, *, wanted: bool = True) -> Callable[[], Awaitable[bool | None]]:
    async def ask() -> bool | None:
        return True if await is_listening(port) is wanted else None

    return ask


async def wait_listening(port: int, *, wanted: bool = True) -> None:
    await wait_for_answer(listening(port, wanted=wanted), what=f"port {port}", clock=CLOCK, at_most=AT_MOST)


async def test_a_killed_server_comes_back_on_its_port(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = ServerProcess([sys.executable, "-m", "http.server", str(port)], log_file=tmp_path / "log")
    await server.start()
    try:
        await wait_listening(port)
        await server.kill()
        assert not await is_listening(port)
        await server.start()
        await wait_listening(port)
    finally:
        await server.stop()
    assert not await is_listening(port)


async def test_a_server_that_ends_by_itself_is_quoted(tmp_path: Path) -> None:
    server = ServerProcess([sys.executable, "-c", "raise SystemExit('no licence')"], log_file=tmp_path / "log")
    await server.start()

    async def ask() -> bool | None:
        server.check_alive()
        return None

    with pytest.raises(UnavailableError, match="ended with code 1: no licence"):
        await wait_for_answer(ask, what="its end", clock=CLOCK, at_most=AT_MOST)
    await server.stop()


async def test_servers_end_with_the_program_that_started_them_even_when_it_is_killed(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, str(port), str(tmp_path / "log"))
    try:
        await wait_listening(port)
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        await owner.wait()
    await wait_listening(port, wanted=False)


def test_a_process_takes_all_the_open_files_it_may_have() -> None:
    program = """
import resource
from controlplane.running import raise_file_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
raise_file_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
