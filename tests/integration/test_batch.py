"""`hueshift batch` as a real process against a real control plane, killed in the middle; what is told of its jobs."""

import asyncio
import contextlib
import datetime as dt
import os
import pathlib
import random

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from controlplane.clock import SystemClock
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import Stack, program
from tests.envoy import wait_until
from tests.integration.test_jobs import Owner, photo, running_stack
from tests.picture_worker import coloured, running_worker
from tests.small_pictures import pixels_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CLOCK = SystemClock()
PHOTOS = 60
KILLS = 3
SOON = dt.timedelta(seconds=120)


def make_photos(folder: pathlib.Path) -> dict[str, bytes]:
    """Write photos into two folders; return the pixels of the results to come, by their names."""
    (folder / "album").mkdir(parents=True)
    expected = {}
    for number in range(PHOTOS):
        name = f"{'album/' if number % 3 == 0 else ''}{number:03d}"
        (folder / f"{name}.jpg").write_bytes(photo(number))
        expected[f"{name}.png"] = pixels_of(coloured(photo(number)))
    return expected


def results(out: pathlib.Path) -> dict[str, bytes]:
    found = (path for path in out.rglob("*.png") if path.is_file())
    return {path.relative_to(out).as_posix(): pixels_of(path.read_bytes()) for path in found}


def batch(stack: Stack, home: pathlib.Path, *options: str) -> tuple[list[str], dict[str, str]]:
    arguments = ["batch", str(home / "photos"), "--out", str(home / "out"), "--recursive", "--parallel", "6", *options]
    environment = {
        "HUESHIFT_URL": f"http://127.0.0.1:{stack.ports.api}",
        "HUESHIFT_API_KEY_FILE": str(home / "stack" / "admin.key"),
    }
    return [program("hueshift"), *arguments], environment


async def run(command: tuple[list[str], dict[str, str]]) -> tuple[int, str]:
    """Run a command to its end; return its exit code and what it printed."""
    arguments, environment = command
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **environment}
    )
    try:
        async with asyncio.timeout(SOON.total_seconds()):
            printed, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def test_a_batch_that_is_killed_goes_on_and_colours_nothing_twice(tmp_path: pathlib.Path) -> None:
    """The batch dies with -9 at three moments, the control plane at one; each photo is one job with one result."""
    expected = make_photos(tmp_path / "photos")
    with running_worker(slow_s=0.1) as worker:
        async with running_stack(tmp_path / "stack", worker, HUESHIFT_JOB_SLOTS="4") as stack:
            await Owner(stack, tmp_path / "stack").apply_kind()
            arguments, environment = batch(stack, tmp_path)
            process = ServerProcess(arguments, log_file=tmp_path / "batch.log", environment=environment)
            out = tmp_path / "out"
            for kill in range(KILLS):
                await process.start()
                share = (kill + 1) * PHOTOS // (KILLS + 2)
                await wait_for_results(out, share)
                if kill == 1:
                    await stack.kill_control_plane()
                    await stack.start_control_plane()
                    await wait_for_results(out, share + 1)
                await process.kill()
                for name, content in results(out).items():
                    assert content == expected[name], "whatever is there is whole"
            torn = random.Random(5).choice(sorted(results(out)))  # noqa: S311 - no secret
            (out / torn).write_bytes(b"half of")
            code, printed = await run((arguments, environment))
            assert code == 0, printed
            assert results(out) == expected
            assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == [".hueshift-batch.jsonl"]
            code, printed = await run((arguments, environment))
            assert f"0 coloured, {PHOTOS} there already, 0 failed" in printed
            states = await Owner(stack, tmp_path / "stack").states()
            assert states == {"done": PHOTOS}, "one job for each photo"


async def wait_for_results(out: pathlib.Path, count: int) -> None:
    async def enough() -> bool:
        return len(results(out)) >= count

    await wait_until(enough, f"{count} results", within=90)


async def test_figures_metrics_and_drains_are_the_rows_after_a_restart_too(tmp_path: pathlib.Path) -> None:
    make_photos(tmp_path / "photos")
    with running_worker() as worker:
        async with running_stack(tmp_path / "stack", worker) as stack:
            owner = Owner(stack, tmp_path / "stack")
            await owner.apply_kind(attempts=1)
            code, printed = await run(batch(stack, tmp_path))
            assert code == 0, printed
            worker.status = 422
            dead = await owner.submit(1000)
            await wait_until(lambda: _is(owner, dead, "dead"), "it is dead")
            worker.status = 200
            (attempt,) = (await owner.ask("GET", f"/v1/jobs/{dead}/attempts")).json()
            assert (attempt["version"], attempt["outcome"]) == ("v1", "refused")
            await check_figures(owner, stack)
            assert (await owner.ask("PUT", "/v1/job-drains", json={"kind": "photo", "on": True})).status_code == 200
            assert (await owner.ask("POST", f"/v1/jobs/{dead}/retry")).json()["state"] == "waiting"
            waiting = await owner.submit(1001)
            await stack.kill_control_plane()
            await stack.start_control_plane()
            samples = await read_metrics(stack)
            assert value_of(samples, "hueshift_job_attempts_total", "done") == PHOTOS, "as before the kill"
            queues = (await owner.ask("GET", "/v1/job-queues")).json()["queues"]
            assert [(each["drained"], each["waiting"], each["running"]) for each in queues] == [(["photo"], 2, 0)]
            assert (await owner.ask("PUT", "/v1/job-drains", json={"on": False})).status_code == 200
            for job in (dead, waiting):
                await wait_until(lambda job=job: _is(owner, job, "done"), "it goes on by itself")  # type: ignore[misc] # bound now


async def check_figures(owner: Owner, stack: Stack) -> None:
    (kind,) = (await owner.ask("GET", "/v1/job-figures")).json()["kinds"]
    assert (kind["enqueued"], kind["done"], kind["dead"]) == (PHOTOS + 1, PHOTOS, 1)
    assert (kind["attempts"]["done"], kind["attempts"]["refused"]) == (PHOTOS, 1)
    (version,) = kind["versions"]
    assert (version["version"], version["done"], version["dead"]) == ("v1", PHOTOS, 1)
    assert 0 < version["run"]["p50_s"] <= version["run"]["p95_s"]
    samples = await read_metrics(stack)
    assert value_of(samples, "hueshift_job_attempts_total", "done") == PHOTOS
    assert value_of(samples, "hueshift_job_run_seconds_count", "v1") == PHOTOS
    assert value_of(samples, "hueshift_job_wait_seconds_count", "photo") == PHOTOS + 1
    assert value_of(samples, "hueshift_job_dead_letters", "photo") == 1


async def _is(owner: Owner, job: str, state: str) -> bool:
    return await owner.state(job) == state


async def read_metrics(stack: Stack) -> list[Sample]:
    """Return all samples, once the control plane has read the rows after now."""
    begun = CLOCK.now().timestamp()

    async def once() -> list[Sample] | None:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            text = (await client.get(f"http://127.0.0.1:{stack.ports.api}/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        read = [each.value for each in samples if each.name == "hueshift_job_read_timestamp_seconds"]
        return samples if read and read[0] >= begun else None

    return await wait_for_answer(once, what="metrics of now", clock=CLOCK, at_most=SOON)


def value_of(samples: list[Sample], name: str, label: str) -> float:
    """Return what is told under a label's value."""
    return sum(each.value for each in samples if each.name == name and label in each.labels.values())
