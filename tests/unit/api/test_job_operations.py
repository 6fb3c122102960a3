"""The routes of whoever runs the jobs."""

import datetime as dt
from typing import Any

import httpx
import pytest

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import READS_ALL
from controlplane.jobs.model import AttemptOutcome, Claim, JobId, photo_key
from controlplane.jobs.ports import EndedAttempt
from controlplane.store.job_tables import job_attempt
from tests.unit.api.test_jobs import KIND, finish, submit
from tests.unit.api.world import World


@pytest.fixture(autouse=True)
async def _kinds(http: httpx.AsyncClient) -> None:
    assert (await http.put("/v1/job-kinds/person", json=KIND)).status_code == 200


async def bury(world: World, job: str, words: str = "422: in colour") -> None:
    """Do what the dispatcher does with a photo that will never do."""
    now = world.clock.now()
    claimed = await world.store.claim_job(JobId(job), holder="test", until=now, now=now)
    assert claimed is not None
    ended = EndedAttempt(AttemptOutcome.REFUSED, words, "v1")
    assert await world.store.bury_job(Claim(claimed.id, claimed.attempts), ended, words=words, now=now)


async def add_attempt(world: World, job: str, **changes: Any) -> None:
    """Do what the store does when an attempt ends, unless it did."""
    now = world.clock.now()
    row = {
        "job": job,
        "attempt": 1,
        "kind": "person",
        "service": "",
        "version": "v1",
        "started_at": now,
        "ended_at": now + dt.timedelta(seconds=2.5),
        "outcome": "failed",
        "words": "500",
        **changes,
    }
    same = (job_attempt.c.job == job, job_attempt.c.attempt == row["attempt"])
    await world.store.database.write(lambda tx: tx.conn.execute(job_attempt.delete().where(*same)).rowcount)
    await world.store.database.write(lambda tx: tx.conn.execute(job_attempt.insert(), row).rowcount)


async def bob(world: World) -> httpx.AsyncClient:
    return world.http(await KeyRing(store=world.store, clock=world.clock).create("bob", (READS_ALL,)))


async def test_attempts_are_shown_to_their_owner_only(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    assert (await http.get(f"/v1/jobs/{job}/attempts")).json() == []
    await add_attempt(world, job)
    (attempt,) = (await http.get(f"/v1/jobs/{job}/attempts")).json()
    assert (attempt["attempt"], attempt["version"], attempt["outcome"]) == (1, "v1", "failed")
    assert (attempt["words"], attempt["seconds"]) == ("500", 2.5)
    async with await bob(world) as bobs:
        assert (await bobs.get(f"/v1/jobs/{job}/attempts")).status_code == 404
        assert (await bobs.post(f"/v1/jobs/{job}/retry")).status_code == 404


async def test_a_dead_job_is_run_again_however_often_it_is_asked_for(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    await bury(world, job)
    for _ in range(2):
        answer = await http.post(f"/v1/jobs/{job}/retry")
        assert (answer.status_code, answer.json()["state"], answer.json()["words"]) == (202, "waiting", "")
    done = (await submit(http)).json()["id"]
    await finish(world, done)
    answer = await http.post(f"/v1/jobs/{done}/retry")
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"job {done} is done; only one that is dead or cancelled can be run again",
    )
    gone = (await submit(http)).json()["id"]
    await bury(world, gone)
    await world.blobs.delete_blob(photo_key(JobId(gone)))
    answer = await http.post(f"/v1/jobs/{gone}/retry")
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"job {gone} cannot be run again: its photo is gone; hand the photo in anew",
    )


async def test_figures_are_shown_by_kind_and_version(world: World, http: httpx.AsyncClient) -> None:
    job, _, dead = [(await submit(http)).json()["id"] for _ in range(3)]
    await finish(world, job)
    await add_attempt(world, job, version="v2", outcome="done")
    await bury(world, dead)
    await add_attempt(world, dead)
    world.clock.move(dt.timedelta(minutes=30))
    answer = (await http.get("/v1/job-figures")).json()
    (kind,) = answer["kinds"]
    assert (kind["kind"], kind["enqueued"], kind["done"], kind["dead"], kind["job_share"]) == ("person", 3, 1, 1, 0.5)
    assert kind["now"] == {"waiting": 1, "running": 0, "oldest_s": 1800.0}
    assert kind["attempts"] == {"done": 1, "failed": 1, "refused": 0, "away": 0, "lost": 0, "thrown": 0}
    assert [(each["version"], each["job_share"]) for each in kind["versions"]] == [("v1", 0.0), ("v2", 1.0)]
    assert kind["run"] == {"count": 1, "p50_s": 2.5, "p95_s": 2.5}
    (later,) = (await http.get("/v1/job-figures", params={"since": "10m", "kind": "person"})).json()["kinds"]
    assert (later["enqueued"], later["versions"], later["job_share"]) == (0, [], None)
    assert (later["run"], later["now"]["waiting"]) == ({"count": 0, "p50_s": None, "p95_s": None}, 1)


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"since": "10"}, 422, "since: 10 has no unit"),
        ({"since": "0s"}, 422, "since: 0s is out of range; use more than nothing, at most 31d"),
        ({"since": "32d"}, 422, "since: 32d is out of range"),
        ({"kind": "nothing"}, 404, "kind 'nothing' does not exist (known: person)"),
    ],
)
async def test_figures_of_no_while_or_kind_are_refused(
    http: httpx.AsyncClient, query: dict[str, str], status: int, words: str
) -> None:
    answer = await http.get("/v1/job-figures", params=query)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(words)


async def test_operators_see_all_queues_and_what_died(world: World, http: httpx.AsyncClient) -> None:
    async with await bob(world) as bobs:
        job, _ = [(await submit(bobs)).json()["id"] for _ in range(2)]
        await bury(world, job)
        refused = await bobs.get("/v1/job-queues")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "hueshift keys grant bob --role operator" in refused.json()["detail"]
    world.clock.move(dt.timedelta(seconds=5))
    found = (await http.get("/v1/job-queues")).json()
    (queue,) = found["queues"]
    assert queue == {
        "queue": "person",
        "kinds": ["person"],
        "drained": [],
        "waiting": 1,
        "running": 0,
        "dead": 1,
        "oldest_s": 5.0,
    }
    assert (found["outbox"], found["drains"], found["trouble"]) == (2, [], "")
    assert found["dead_letters"] == {"count": 0, "more": False, "reasons": []}


async def test_drains_are_put_on_seen_by_readers_and_taken_off(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    on = {"kind": "person", "on": True, "why": "new\ndisks"}
    answer = (await http.put("/v1/job-drains", json=on)).json()
    assert answer == {
        "kind": "person",
        "on": True,
        "changed": True,
        "words": "no jobs of person are started now",
    }
    assert (await http.put("/v1/job-drains", json=on)).json()["words"] == "no jobs of person are started now already"
    now = world.clock.now()
    assert await world.store.claim_job(JobId(job), holder="test", until=now, now=now) is None
    assert (await submit(http)).status_code == 202, "what is submitted waits"
    async with await bob(world) as bobs:
        (drain,) = (await bobs.get("/v1/job-drains")).json()
        assert (drain["began_by"], drain["began_why"], drain["ended_at"]) == ("ada", "new disks", None)
        assert (await bobs.put("/v1/job-drains", json={"on": False})).status_code == 403
    assert (await http.get("/v1/job-queues")).json()["queues"][0]["drained"] == ["person"]
    off = await http.put("/v1/job-drains", json={"on": False}, headers={"X-Hueshift-Reason": "they turn"})
    assert off.json()["words"] == "jobs of any kind are started"
    (drain,) = (await http.get("/v1/job-drains")).json()
    assert (drain["ended_by"], drain["ended_why"]) == ("ada", "they turn")
    await finish(world, job)


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"on": "perhaps"}, 422), ({"on": True, "kind": "nothing"}, 404), ({"on": True, "kinds": "x"}, 422)],
)
async def test_a_drain_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, body: dict[str, Any], status: int
) -> None:
    assert (await http.put("/v1/job-drains", json=body)).status_code == status
    assert (await http.get("/v1/job-drains")).json() == []
