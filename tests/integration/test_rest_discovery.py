"""A process that has Envoys but no API serves those that poll, too."""

import asyncio
from pathlib import Path

import httpx
import pytest

from controlplane import running, wiring
from controlplane.settings import read_settings
from controlplane.xds.transport import bind_port
from tests.envoy import wait_until

pytestmark = pytest.mark.integration

ASKED = {"node": {"id": "edge-1"}}


async def test_role_xds_answers_polls_and_nothing_else(tmp_path: Path) -> None:
    settings = read_settings(
        data_dir=tmp_path, role="xds", rest_discovery="loopback", api_port=0, xds_port=0, telemetry_port=0
    )
    listening = bind_port("127.0.0.1", 0, "HUESHIFT_API_PORT")
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with wiring.build(settings) as parts, asyncio.TaskGroup() as tasks:
        assert parts.serves_api
        going = tasks.create_task(running.run(parts, api_socket=listening, drain_s=1))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:

            async def is_up() -> bool:
                try:
                    return (await http.post("/v3/discovery:clusters", json=ASKED)).status_code == 503
                except httpx.TransportError:
                    return False

            await wait_until(is_up, "an answer that nothing is loaded")
            assert (await http.get("/v1/services")).status_code == 404
        going.cancel()


async def test_without_the_setting_role_xds_has_no_http(tmp_path: Path) -> None:
    async with wiring.build(read_settings(data_dir=tmp_path, role="xds")) as parts:
        assert not parts.serves_api
