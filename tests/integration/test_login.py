"""The whole way of a log-in, over sockets: a control plane as `serve` builds it, and a provider of its own."""

import asyncio
import pathlib

import httpx
import pytest

from controlplane import wiring
from controlplane.clock import SystemClock
from controlplane.running import serve_api
from controlplane.settings import read_settings
from controlplane.xds.transport import bind_port
from tests.oidc_provider import CLIENT, SECRET, Provider


@pytest.mark.integration
async def test_somebody_logs_in_over_http_and_out_again(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with bind_port("127.0.0.1", 0, "api") as ours, bind_port("127.0.0.1", 0, "provider") as theirs:
        here, there = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (ours, theirs))
        provider = Provider(there, SystemClock())
        settings = read_settings(
            data_dir=tmp_path,
            role="api",
            public_url=here,
            oidc_issuer=there,
            oidc_client_id=CLIENT,
            oidc_client_secret_file=secret,
            oidc_roles="groups: ml=operator:colorize",
            validate_with_envoy="off",
        )
        async with wiring.build(settings) as parts, asyncio.TaskGroup() as tasks:
            serving = [
                tasks.create_task(serve_api(parts.api, ours, 1.0)),
                tasks.create_task(serve_api(provider.app, theirs, 1.0)),
            ]
            async with httpx.AsyncClient(base_url=here, trust_env=False, follow_redirects=True) as browser:
                page = await browser.get("/login/oidc")
                assert page.status_code == 200, page.text
                assert "You are logged in as user:ada@example.org." in page.text
                view = (await browser.get("/v1/session")).json()
                assert view["grants"] == [{"role": "operator", "service": "colorize"}]
                assert (await browser.delete("/v1/session")).status_code == 403
                csrf = {"X-Hueshift-CSRF": view["csrf"], "Origin": here}
                assert (await browser.delete("/v1/session", headers=csrf)).status_code == 204
                assert (await browser.get("/v1/session")).status_code == 401
            for task in serving:
                task.cancel()
