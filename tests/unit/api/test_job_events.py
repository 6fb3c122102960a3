"""What becomes of jobs, over the wire: to their owner alone, from how things stand to the end."""

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.api import sse
from controlplane.auth.keys import KeyRing
from controlplane.jobs.model import JobId
from tests.builders import make_change
from tests.job_builders import PNG, make_kind
from tests.unit.api.test_jobs import finish, submit
from tests.unit.api.test_sse import Reader
from tests.unit.api.world import World


@pytest.fixture(autouse=True)
async def _kinds(world: World) -> None:
    await world.store.apply_kind(make_kind(), make_change(at=world.clock.now()))


class Stream(Reader):
    """The events of one answer."""

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those that have come, their data beside ``event`` and ``id``."""
        found = []
        for block in self.text.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if "data" in fields:
                found.append({"event": fields["event"], "number": fields.get("id"), **json.loads(fields["data"])})
        return found

    async def wait_word(self, word: str) -> dict[str, Any]:
        """Return the first event with *word* in it, whatever comes before: moments in between may be missed, or not."""
        await self.wait_text(f'"{word}"')
        await self.wait_text("\n\n")
        return next(event for event in self.events if word in json.dumps(event))

    async def wait_end(self) -> None:
        async with asyncio.timeout(10):
            while not self.has_end:
                self._arrived.clear()
                await self._arrived.wait()

    async def wait_events(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(10):
            while len(self.events) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.events


@contextlib.asynccontextmanager
async def following(
    world: World, path: str, *, key: str = "", runs_feed: bool = True, **headers: str
) -> AsyncIterator[Stream]:
    """Ask for a stream and run the feed that tells it; leave at the end."""
    stream = Stream()
    sent = {"authorization": f"Bearer {key or world.key}", **{name.replace("_", "-"): v for name, v in headers.items()}}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": urllib.parse.unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    async with asyncio.TaskGroup() as tasks:
        feed = tasks.create_task(world.feed.run() if runs_feed else asyncio.sleep(0))  # noqa: TID251 - ends at once
        answer = tasks.create_task(world.app(scope, stream.receive, stream.send))
        yield stream
        stream.left.set()
        await asyncio.wait((answer,))
        feed.cancel()


async def test_one_job_is_followed_to_its_end(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()
    async with following(world, f"/v1/jobs/{job['id']}/events") as stream:
        (first,) = await stream.wait_events(1)
        assert (first["event"], first["state"], first["place"]) == ("job", "waiting", 1)
        await finish(world, job["id"])
        last = await stream.wait_word("done")
        await stream.wait_end()
    assert (last["state"], last["version"], last["place"]) == ("done", "v2", None)
    shown = (await http.get(f"/v1/jobs/{job['id']}")).json()
    del shown["callbacks"]  # nobody's news
    assert {name: last[name] for name in shown} == shown
    known = await http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last["number"]})
    assert (known.status_code, known.content) == (204, b"")


async def test_who_knows_how_a_job_stands_is_not_told_again(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    async with following(world, f"/v1/jobs/{job}/events") as stream:
        (first,) = await stream.wait_events(1)
    async with following(world, f"/v1/jobs/{job}/events", last_event_id=first["number"]) as stream:
        await stream.wait_text("retry: ")
        await http.post(f"/v1/jobs/{job}/cancel")
        (only,) = await stream.wait_events(1)
    assert (only["state"], only["words"]) == ("cancelled", "cancelled by its owner")


async def test_a_job_that_is_deleted_ends_its_stream(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    async with following(world, f"/v1/jobs/{job}/events") as stream:
        await stream.wait_events(1)
        await http.delete(f"/v1/jobs/{job}")
        last = (await stream.wait_events(2))[-1]
    assert last == {"event": "gone", "number": None, "id": job}


async def test_all_jobs_of_an_owner_are_followed_together(world: World, http: httpx.AsyncClient) -> None:
    done, waiting = [(await submit(http)).json()["id"] for _ in range(2)]
    await finish(world, done)
    async with following(world, "/v1/jobs/events") as stream:
        (first,) = await stream.wait_events(1)
        assert (first["event"], first["first"], first["gone"], first["places"]) == ("jobs", True, [], {})
        assert [(job["id"], job["state"], job["place"]) for job in first["jobs"]] == [
            (done, "done", None),
            (waiting, "waiting", 1),
        ]
        await finish(world, waiting)
        news = first
        for count in (2, 3):  # whether it was seen running, or not
            if news["first"] or news["jobs"][0]["state"] != "done":
                news = (await stream.wait_events(count))[-1]
        assert [(job["id"], job["version"]) for job in news["jobs"]] == [(waiting, "v2")]
    ended = (await world.store.load_job(JobId(waiting))).finished_at
    assert ended is not None
    assert news["number"] == str(int(ended.timestamp() * 1_000_000))


async def test_what_ended_since_the_last_event_is_told_first(world: World, http: httpx.AsyncClient) -> None:
    ids = [(await submit(http)).json()["id"] for _ in range(52)]
    await finish(world, ids[0])
    newest = str(int(world.clock.now().timestamp() * 1_000_000))
    for known, told in ((newest, True), ("soon", False), ("9" * 60, False), ("0", False)):
        async with following(world, "/v1/jobs/events", last_event_id=known) as stream:
            (first,) = await stream.wait_events(1)
            assert (ids[0] in [job["id"] for job in first["jobs"]]) is told, known


async def test_nobody_follows_anothers_jobs(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    bob = await KeyRing(store=world.store, clock=world.clock).create("bob")
    async with world.http(bob) as bobs:
        assert (await bobs.get(f"/v1/jobs/{job}/events")).status_code == 404
        assert (await bobs.get(f"/v1/jobs/{job}/photo")).status_code == 404
    async with following(world, "/v1/jobs/events", key=bob) as stream:
        assert (await stream.wait_events(1))[0]["jobs"] == []


async def test_one_stream_too_many_is_told_so(world: World, http: httpx.AsyncClient) -> None:
    async with contextlib.AsyncExitStack() as open_streams:
        for _ in range(sse.MAX_STREAMS_EACH):
            stream = await open_streams.enter_async_context(following(world, "/v1/jobs/events", runs_feed=False))
            await stream.wait_text("retry: ")
        answer = await http.get("/v1/jobs/events")
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")
        assert answer.json()["detail"] == "ada follows 8 event streams already; close one, then ask again"


async def test_a_photo_is_given_back_to_its_owner(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()
    answer = await http.get(f"/v1/jobs/{job['id']}/photo")
    kept = await world.store.load_job(JobId(job["id"]))
    assert kept.photo is not None
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, kept.photo.media_type)
    assert len(answer.content) == kept.photo.size_bytes
    assert answer.content != PNG
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}-photo.jpg"'
    assert (answer.headers["X-Content-Type-Options"], answer.headers["Cache-Control"]) == (
        "nosniff",
        "private, no-store",
    )


async def test_a_photo_that_was_not_fetched_yet_is_not_there(http: httpx.AsyncClient) -> None:
    task = {"workflow_type": make_kind().workflow, "image_url": "https://photos.example.org/1.jpg"}
    job = (await http.post("/v1/jobs", json=task)).json()["id"]
    answer = await http.get(f"/v1/jobs/{job}/photo")
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"job {job} is waiting; its photo was not fetched from its address yet",
    )
