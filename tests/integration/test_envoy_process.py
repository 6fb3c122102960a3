"""Envoy as a child process: what it says when it cannot start, and that it ends."""

import os
import signal
from pathlib import Path

import pytest

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.settings import XdsTransport
from controlplane.traffic.model import ServedService
from controlplane.xds import grpc_transport
from controlplane.xds import server as xds_server
from controlplane.xds.envoy_process import EnvoyProcess, find_envoy
from controlplane.xds.grpc_transport import OPTIONS
from tests.builders import make_spec, make_split, seconds
from tests.envoy import CLOCK, bootstrap_for, free_port, running_envoy, running_plane, wait_until

pytestmark = pytest.mark.integration


async def test_a_bad_bootstrap_is_told_in_envoys_words(tmp_path: Path) -> None:
    bootstrap = bootstrap_for(free_port())
    bootstrap["stats_flush_interval"] = "-1s"
    async with running_envoy(bootstrap, tmp_path, ready=False) as envoy:
        with pytest.raises(UnavailableError, match="ended with code 1") as refused:
            await envoy.wait_ready()
        assert "stats_flush_interval" in str(refused.value) or "Invalid duration" in str(refused.value)


async def test_without_a_control_plane_it_is_not_ready(tmp_path: Path) -> None:
    async with running_envoy(bootstrap_for(free_port()), tmp_path, ready=False) as envoy:
        with pytest.raises(UnavailableError, match="is not ready"):
            await envoy.wait_ready(seconds(0.5))
        assert envoy.returncode is None


async def test_it_answers_while_it_runs_and_is_gone_afterwards(tmp_path: Path) -> None:
    async with running_plane() as plane:
        plane.publish(ServedService(make_spec(port=free_port()), make_split(v1=10_000)))
        async with running_envoy(bootstrap_for(plane.server.port), tmp_path) as envoy:
            assert (await envoy.statistics("server."))["server.live"] == 1
            with pytest.raises(UnavailableError, match="404"):
                await envoy.admin("/nothing-here")
            pid = envoy.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(UnavailableError, match="does not answer"):
            await envoy.admin("/ready")


async def test_a_killed_envoy_takes_no_stream_down_but_its_own(tmp_path: Path) -> None:
    spec = make_spec(port=free_port())
    async with running_plane() as plane:
        plane.publish(ServedService(spec, make_split(v1=10_000)))
        async with (
            running_envoy(bootstrap_for(plane.server.port, node_id="stays"), tmp_path / "stays"),
            running_envoy(bootstrap_for(plane.server.port, node_id="dies"), tmp_path / "dies", ready=False) as dies,
        ):
            await wait_until(lambda: plane.rows.acked("dies", "lds") != "", "the second one is in step")
            record = plane.publish(ServedService(spec, make_split(v1=5_000, v2=5_000)))
            await dies.kill()
            for weight_bp in range(1, 50):
                record = plane.publish(ServedService(spec, make_split(v1=10_000 - weight_bp, v2=weight_bp)))
            await plane.wait_acked(record, "stays")
            await wait_until(lambda: plane.rows.nodes["dies"].disconnected_at is not None, "its row says so")
            assert plane.metric("hueshift_xds_streams_closed_total", reason="bug") == 0


@pytest.mark.xds_row("keepalive")
@pytest.mark.parametrize("transport", list(XdsTransport))
async def test_an_envoy_that_hangs_is_noticed_and_welcome_back(
    transport: XdsTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xds_server, "STALL_CHECK", xds_server.DUE_CHECK)
    faster = [(name, 1000 if "keepalive_time" in name or "ping_timeout" in name else value) for name, value in OPTIONS]
    monkeypatch.setattr(grpc_transport, "OPTIONS", tuple(faster))
    async with running_plane(transport=transport) as plane:
        record = plane.publish(ServedService(make_spec(port=free_port()), make_split(v1=10_000)))
        async with running_envoy(bootstrap_for(plane.server.port), tmp_path) as envoy:
            await plane.wait_acked(record, "envoy-1")
            os.kill(envoy.pid, signal.SIGSTOP)
            try:
                await wait_until(lambda: plane.server.stream_count == 0, "its stream is closed")
                await wait_until(lambda: plane.rows.nodes["envoy-1"].disconnected_at is not None, "its row says so")
            finally:
                os.kill(envoy.pid, signal.SIGCONT)
            await wait_until(lambda: plane.rows.nodes["envoy-1"].disconnected_at is None, "it comes back")
            newer = plane.publish(ServedService(make_spec(port=free_port()), make_split(v1=9_999, v2=1)))
            await plane.wait_acked(newer, "envoy-1", "rds")


def test_a_binary_that_is_none_is_named() -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_ENVOY: nowhere/envoy is not a program"):
        find_envoy("nowhere/envoy")


def test_what_was_not_started_says_so(tmp_path: Path) -> None:
    envoy = EnvoyProcess(bootstrap_for(free_port()), folder=tmp_path, clock=CLOCK)
    with pytest.raises(UnavailableError, match="was not started"):
        _ = envoy.pid
