"""The load generator and the stub upstream, as processes, against each other."""

import asyncio
import datetime as dt
import socket
from pathlib import Path

import numpy as np
import pytest

from controlplane.clock import SystemClock
from controlplane.lab.load import Load, LoadPlan, LoadProcess, Outcome
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess

pytestmark = pytest.mark.integration

AT_MOST = dt.timedelta(seconds=30)


async def test_paced_load_keeps_its_rate_and_tells_versions_and_faults_apart(tmp_path: Path) -> None:
    specs = [ServerSpec("good", "v1"), ServerSpec("bad", "v2", Behaviour(error_share=0.2))]
    async with UpstreamProcess(specs, seed=3) as upstream:
        plans = [
            LoadPlan(name=name, port=port, rate=500, requests=500, duration_s=10)
            for name, port in upstream.ports.items()
        ]
        async with LoadProcess(plans, directory=tmp_path) as load:
            found = await load.wait_records(at_most=AT_MOST)
    good, bad = found["good"], found["bad"]
    assert good.failures() == bad.failures() == {}
    assert good.ok.all()
    assert good.has("x-version", "v1").all()
    assert 60 <= bad.has("x-injected-fault", "error").sum() <= 140
    assert np.ptp(good.due) == pytest.approx(499 / 500, abs=1e-6)


async def test_a_change_of_behaviour_takes_effect_at_the_moment_it_names(tmp_path: Path) -> None:
    async with (
        UpstreamProcess([ServerSpec("one", "v1")]) as upstream,
        LoadProcess([LoadPlan(port=upstream.ports["one"], connections=2, duration_s=30)], directory=tmp_path) as load,
    ):
        changed = await upstream.change("one", Behaviour(error_share=1))
        back = await upstream.change("one", Behaviour())
        load.stop()
        records = (await load.wait_records(at_most=AT_MOST))["load"]
    assert records.ok[records.end < changed].all()
    assert records.ok[records.start > back].all()


async def test_what_never_answers_times_out_and_what_is_gone_is_a_socket_error() -> None:
    async with UpstreamProcess([ServerSpec("one", "v1", Behaviour(hang_share=1))]) as upstream:
        plan = LoadPlan(port=upstream.ports["one"], connections=4, requests=4, timeout_s=0.2)
        hung = await Load(plan, clock=SystemClock()).run()
    gone = await Load(plan, clock=SystemClock()).run()
    assert (hung.outcome == Outcome.TIMED_OUT).all()
    assert (gone.outcome == Outcome.SOCKET_ERROR).all()
    assert len(hung) == len(gone) == 4


async def test_requests_that_find_no_free_connection_wait_and_are_dated_from_when_they_were_due() -> None:
    async with UpstreamProcess([ServerSpec("one", "v1", Behaviour(median_ms=50, p95_ms=50))]) as upstream:
        plan = LoadPlan(port=upstream.ports["one"], connections=1, requests=5, rate=1_000)
        records = await Load(plan, clock=SystemClock()).run()
    assert records.ok.all()
    assert (records.end - records.due).max() >= 0.25 - 0.01
    assert (records.start - records.due).max() >= 0.2 - 0.01


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with UpstreamProcess([ServerSpec("one", "v1", Behaviour(median_ms=5, p95_ms=5))]) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.ports["one"])
        writer.write(b"GET / HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10):
            answers = await reader.readuntil(b"v1\r\n\r\nv1") + await reader.readuntil(b"v1\r\n\r\nv1")
            answers += await reader.readuntil(b"v1\r\n\r\nv1")
        assert answers.count(b"HTTP/1.1 200") == 3
        writer.close()
        await writer.wait_closed()


async def test_servers_end_when_their_owner_does() -> None:
    async with UpstreamProcess([ServerSpec("one", "v1")]) as upstream:
        port = upstream.ports["one"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
