"""A producer who never gives up: hands jobs in, looks after them and collects the results, whatever is down just now.

Each submission has an idempotency key and is repeated until it is answered, so that a lost answer is no second job.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import aio_pika
import httpx
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from controlplane.clock import Clock
from controlplane.lab.api_client import ApiRefusalError, wait_for_answer
from controlplane.lab.job_pictures import photo, read_result
from controlplane.lab.job_worker import PHOTOS

Way: TypeAlias = Literal["upload", "url", "task"]

KIND: Final[Mapping[str, Any]] = {
    "kind": "drill",
    "workflow": "drill.json",
    "models": ["drill"],
    "sizes": {"min": 64, "max": 1024},
    "timeout": "20s",
    "attempts": 5,
    "strip_metadata": False,  # or results could not be checked byte by byte
    "label": False,
}
TASKS: Final = "photo_repair_tasks"
PAGE: Final = 200
PATIENCE: Final = dt.timedelta(minutes=10)
EVERY: Final = dt.timedelta(milliseconds=300)
ASK_TIMEOUT_S: Final = 30
ENDED: Final = frozenset({"done", "dead", "cancelled"})


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What job *number* is: how it comes in, whether its photo is bad, and whether it is a VIP's."""

    number: int
    way: Way
    bad: bool
    vip: bool

    @property
    def task_id(self) -> str:
        """The producer's name for it."""
        return f"drill-{self.number}"


def plan_of(number: int, *, with_tasks: bool) -> Plan:
    """Mix the ways: a tenth by URL, a tenth as tasks of a foreign producer, the rest uploaded; some bad, some VIPs'."""
    way: Way = "upload"
    if number % 10 == 3:
        way = "url"
    elif number % 10 == 7 and with_tasks:
        way = "task"
    return Plan(number, way, bad=number % 25 == 13, vip=number % 8 == 0)


@dataclasses.dataclass(slots=True)
class Seen:
    """What the producer knows of a job: its id, and how it ended when that was first seen."""

    plan: Plan
    id: str = ""
    state: str = ""
    words: str = ""
    attempts: int = 0
    sha256: str = ""
    nonce: str = ""


class Owner:
    """The producer.

    Args:
        api_port: Where the API is, on loopback.
        key_file: Holds the API key.
        photos_port: Where photos are fetched from.
        queue_url: The broker that foreign tasks go to; "" where there is none.
        clock: For waiting.
    """

    def __init__(self, *, api_port: int, key_file: Path, photos_port: int, queue_url: str, clock: Clock) -> None:
        self.jobs: dict[int, Seen] = {}
        self.problems: list[str] = []
        self.repeated_requests = 0
        self._photos = f"http://127.0.0.1:{photos_port}{PHOTOS}"
        self._queue_url = queue_url
        self._key_file = key_file
        self._clock = clock
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{api_port}", timeout=ASK_TIMEOUT_S, trust_env=False)
        self._broker: aio_pika.abc.AbstractConnection | None = None
        self._publishing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await self._hang_up()

    @property
    def ended(self) -> int:
        """How many jobs were seen to have ended."""
        return sum(job.state in ENDED for job in self.jobs.values())

    async def apply_kind(self) -> None:
        """Declare the kind of the drill's jobs."""
        await self._ask("PUT", f"/v1/job-kinds/{KIND['kind']}", key="kind", json=KIND)

    async def submit(self, plan: Plan) -> None:
        """Hand a job in, again and again until that is answered."""
        self.jobs[plan.number] = Seen(plan)
        if plan.way == "task":
            await self._publish(plan)
            return
        asked: dict[str, str] = {"workflow_type": KIND["workflow"], "task_id": plan.task_id}
        asked["priority"] = "vip" if plan.vip else "normal"
        if plan.way == "url":
            answer = await self._ask("POST", "/v1/jobs", key=plan.task_id, json={**asked, "image_url": self._url(plan)})
        else:
            answer = await self._ask(
                "POST",
                "/v1/jobs",
                key=plan.task_id,
                params=asked,
                content=photo(plan.number, bad=plan.bad),
                headers={"content-type": "image/png"},
            )
        self.jobs[plan.number].id = str(answer.json()["id"])

    async def look(self) -> None:
        """Look which jobs have ended since the last time, and collect their results."""
        missing = {number for number, job in self.jobs.items() if job.state not in ENDED}
        place: dict[str, str] = {}
        while missing:
            page = (await self._ask("GET", "/v1/jobs", params={"limit": str(PAGE), **place})).json()
            for row in page["items"]:
                number = int(row["task_id"].rpartition("-")[2])
                if number in missing:
                    missing.discard(number)
                    await self._note(self.jobs[number], row)
            if page["next"] is None:
                return
            place = {"cursor": page["next"]}

    async def _note(self, job: Seen, row: Mapping[str, Any]) -> None:
        if job.id and job.id != row["id"]:
            self.problems.append(f"{job.plan.task_id}: submitted as {job.id}, listed as {row['id']}")
        job.id = row["id"]
        if row["state"] not in ENDED:
            return
        if row["state"] == "done":
            result = (await self._ask("GET", f"/v1/jobs/{job.id}/result")).content
            job.sha256 = hashlib.sha256(result).hexdigest()
            try:
                found = read_result(result)
                job.nonce = found.nonce.hex()
                expected = hashlib.sha256(photo(job.plan.number, bad=job.plan.bad)).digest()
                if found.photo_sha256 != expected:
                    self.problems.append(f"{job.plan.task_id}: its result is of another photo")
            except ValueError as exc:
                self.problems.append(f"{job.plan.task_id}: its result is {exc}")
        job.words = row["words"]
        job.attempts = row["attempts"]
        job.state = row["state"]

    async def _ask(self, method: str, path: str, *, key: str = "", **options: Any) -> httpx.Response:
        headers = options.pop("headers", {}) | ({"idempotency-key": key} if key else {})
        tries = 0

        async def once() -> httpx.Response | None:
            nonlocal tries
            tries += 1
            try:
                headers["authorization"] = f"Bearer {self._key_file.read_text().strip()}"
                answer = await self._http.request(method, path, headers=headers, **options)
            except httpx.TransportError:
                return None
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        answer = await wait_for_answer(once, what=f"{method} {path}", clock=self._clock, at_most=PATIENCE, every=EVERY)
        self.repeated_requests += tries - 1
        if answer.is_error:
            raise ApiRefusalError(answer.status_code, answer.text[:200])
        return answer

    def _url(self, plan: Plan) -> str:
        return f"{self._photos}{plan.number}.{'bad' if plan.bad else 'png'}"

    async def _publish(self, plan: Plan) -> None:
        """Put a task on the foreign queue, as a producer who knows nothing of us does, until the broker confirms it."""
        task = {"task_id": plan.task_id, "workflow_type": KIND["workflow"], "image_url": self._url(plan)}
        message = aio_pika.Message(
            json.dumps(task).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT, content_type="application/json"
        )

        async def once() -> bool | None:
            try:
                async with self._publishing, asyncio.timeout(10):
                    if self._broker is None or self._broker.is_closed:
                        self._broker = await aio_pika.connect(self._queue_url, timeout=10)
                    channel = await self._broker.channel(on_return_raises=True)
                    await channel.declare_queue(TASKS, durable=True)
                    await channel.default_exchange.publish(message, TASKS, mandatory=True)
                    await channel.close()
            except (*CONNECTION_EXCEPTIONS, TimeoutError):
                await self._hang_up()
                return None
            return True

        await wait_for_answer(once, what=f"task {plan.task_id}", clock=self._clock, at_most=PATIENCE, every=EVERY)

    async def _hang_up(self) -> None:
        broker, self._broker = self._broker, None
        with contextlib.suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
            async with asyncio.timeout(10):
                if broker is not None:
                    await broker.close()
