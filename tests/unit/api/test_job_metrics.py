"""What /metrics says about jobs, read back from the text as Prometheus does."""

import datetime as dt
import pathlib
import re

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controlplane.api.job_metrics import JobCollector
from controlplane.store.job_tables import job_attempt
from tests.job_builders import PHOTO, WORKFLOW
from tests.unit.api.test_jobs import JPEG, KIND, finish
from tests.unit.api.world import World


@pytest.fixture
def samples(world: World) -> "Samples":
    return Samples(world)


class Samples:
    """The samples of jobs, by name and labels."""

    def __init__(self, world: World) -> None:
        self._meter = world.app.state.parts.overseer.meter
        self.registry = CollectorRegistry()
        self.registry.register(JobCollector(self._meter))

    async def read(self) -> None:
        await self._meter.look()
        text = generate_latest(self.registry).decode()
        families = text_string_to_metric_families(text)
        self.samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    def value(self, name: str, *labels: str) -> float:
        return self.samples[f"hueshift_job{name}", *sorted(labels)]


async def test_jobs_are_told_by_kind_state_and_version(world: World, http: httpx.AsyncClient, samples: Samples) -> None:
    assert generate_latest(samples.registry) == b"", "nothing is said before it is known"
    assert (await http.put("/v1/job-kinds/person", json=KIND)).status_code == 200
    jobs = [
        (await http.post("/v1/jobs", params={"workflow_type": WORKFLOW}, content=PHOTO, headers=JPEG)).json()["id"]
        for _ in range(3)
    ]
    await finish(world, jobs[0])
    row = {
        "job": "other",
        "attempt": 1,
        "kind": "person",
        "service": "",
        "version": "v2",
        "started_at": world.clock.now(),
        "ended_at": world.clock.now(),
        "outcome": "failed",
        "words": "",
    }
    await world.store.database.write(lambda tx: tx.conn.execute(job_attempt.insert(), row).rowcount)
    await samples.read()
    assert (samples.value("s", "person", "waiting"), samples.value("s", "person", "running")) == (2, 0)
    assert samples.value("_oldest_waiting_seconds", "person") == 0
    assert (samples.value("_outbox"), samples.value("_dead_letters", "person")) == (3, 0)
    assert samples.value("_attempts_total", "person", "v2", "failed") == 1
    assert samples.value("_wait_seconds_count", "person") == samples.value("_wait_seconds_bucket", "person", "0.1") == 1
    assert samples.value("_read_timestamp_seconds") == world.clock.now().timestamp()
    world.clock.move(dt.timedelta(seconds=90))
    await samples.read()
    assert samples.value("_oldest_waiting_seconds", "person") == 90
    example = (pathlib.Path(__file__).parents[3] / "deploy" / "keda.yaml").read_text()
    told = {name for name, *_ in samples.samples}
    assert set(re.findall(r"\bhueshift_job\w*", example)) <= told, "what autoscalers are told to ask for is there"
    assert all(trigger["metadata"]["threshold"] for trigger in yaml.safe_load(example)["spec"]["triggers"])
