"""The routes of jobs' owners, and what quotas and times to live look like from outside."""

import datetime as dt
from typing import Any

import httpx
import pytest

from controlplane.auth.keys import KeyRing
from controlplane.jobs.model import JobId
from tests.job_builders import PHOTO, WORKFLOW
from tests.unit.api.test_jobs import KIND, UPLOAD, finish, submit
from tests.unit.api.world import World

ADA: dict[str, Any] = {
    "owner": "ada",
    "keep": "1d",
    "max_waiting": 1,
    "max_daily": 2,
    "max_bytes": "1MiB",
    "vip": False,
}
DAY = dt.timedelta(days=1)


@pytest.fixture(autouse=True)
async def _kinds(http: httpx.AsyncClient) -> None:
    assert (await http.put("/v1/job-kinds/person", json=KIND)).status_code == 200


async def agree(http: httpx.AsyncClient, **changes: object) -> httpx.Response:
    return await http.put("/v1/job-owners/ada", json={"owner": "ada", **changes})


async def expire(world: World, job: str) -> None:
    """Do what the keeper does, when the time of all pictures is over."""
    world.clock.move(8 * DAY)
    await world.app.state.parts.desk.sweep()
    assert (await world.store.load_job(JobId(job))).swept_at == world.clock.now()


# -- what is agreed ----------------------------------------------------------------------------------------------------


async def test_an_agreement_is_read_back_with_what_is_used_of_it(world: World, http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/job-owners")).json()["items"] == []
    applied = {"owner": "ada", "changed": True, "words": "ada is applied"}
    assert (await agree(http, **ADA)).json() == applied
    assert (await agree(http, **ADA)).json() == {**applied, "changed": False, "words": "ada is unchanged"}
    assert (await http.get("/v1/job-owners")).json()["items"] == [ADA]
    await submit(http)
    assert (await http.get("/v1/job-owners/ada")).json() == {
        "owner": "ada",
        "agreed": ADA,
        "vip": False,
        "waiting": {"used": 1, "most": 1},
        "daily": {"used": 1, "most": 2},
        "bytes": {"used": len(PHOTO), "most": 1 << 20},
    }
    assert (await http.delete("/v1/job-owners/ada")).status_code == 204
    gone = await http.delete("/v1/job-owners/ada")
    assert (gone.status_code, gone.json()["field"]) == (404, "job owner")
    own = (await http.get("/v1/job-owners/ada")).json()
    assert (own["agreed"], own["vip"], own["waiting"]) == (None, True, {"used": 1, "most": 10_000})
    async with world.http(await KeyRing(store=world.store, clock=world.clock).create("bob")) as bobs:
        assert (await bobs.get("/v1/job-owners/ada")).status_code == 404, "of whom nothing is agreed, only ada reads"
        assert (await bobs.get("/v1/job-owners/bob")).status_code == 200


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"owner": "bob"}, "owner", "'bob' is not the 'ada' of the path; write owner: ada"),
        ({"owner": "a b"}, "owner", "is no API key's name"),
        ({"keep": "1s"}, "keep", "use 1m to 3650d"),
        ({"keep": 7}, "keep", "7 has no unit"),
        ({"max_waiting": -1}, "max_waiting", "use 0 to 1000000000"),
        ({"max_waiting": "many"}, "max_waiting", "'many' is not a whole number"),
        ({"max_daily": True}, "max_daily", "is not a whole number"),
        ({"max_bytes": 20}, "max_bytes", "20 has no unit; write 20B or 20GiB"),
        ({"max_bytes": "9999TiB"}, "max_bytes", "is out of range"),
        ({"vip": "perhaps"}, "vip", "is not true or false"),
        ({"max_wating": 1}, "max_wating", "did you mean max_waiting?"),
    ],
)
async def test_an_agreement_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, changes: dict[str, object], field: str, words: str
) -> None:
    answer = await agree(http, **changes)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert words in answer.json()["detail"]
    assert (await http.get("/v1/job-owners")).json()["items"] == []


# -- quotas ------------------------------------------------------------------------------------------------------------


async def test_over_quota_is_429_with_the_quota_its_value_and_the_fix(world: World, http: httpx.AsyncClient) -> None:
    await agree(http, max_waiting=1)
    first = await submit(http, task_id="t")
    refused = await submit(http)
    assert refused.status_code == 429
    assert "Retry-After" not in refused.headers, "nobody knows when a job ends"
    assert refused.json() == {
        "type": "https://hueshift.dev/problems/over_quota",
        "title": "More than was agreed",
        "status": 429,
        "code": "over_quota",
        "field": "max_waiting",
        "fix": "wait until some have ended, cancel some, or have the quota raised",
        "detail": "max_waiting: ada has 1 jobs that wait or run, and may have 1; wait until some have ended, "
        "cancel some, or have the quota raised",
        "problems": [],
    }
    assert (await submit(http, task_id="t")).json() == first.json(), "a repetition is answered from the first"
    assert len(list((world.blobs.folder / "photos").iterdir())) == 1
    await http.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert (await submit(http)).status_code == 202


async def test_where_the_time_is_known_it_is_said(world: World, http: httpx.AsyncClient) -> None:
    await agree(http, max_daily=1)
    await submit(http)
    world.clock.move(dt.timedelta(hours=23))
    refused = await submit(http)
    assert (refused.status_code, refused.headers["Retry-After"], refused.json()["field"]) == (429, "3600", "max_daily")
    world.clock.move(dt.timedelta(seconds=3600))
    assert (await submit(http)).status_code == 202


async def test_bytes_are_free_again_once_a_job_is_deleted(http: httpx.AsyncClient) -> None:
    await agree(http, max_bytes=f"{len(PHOTO) + 5}B")
    job = (await submit(http)).json()["id"]
    refused = await http.post("/v1/jobs", files=UPLOAD, data={"workflow_type": WORKFLOW})
    assert (refused.status_code, refused.json()["field"]) == (429, "max_bytes")
    assert f"may have {len(PHOTO) + 5}" in refused.json()["detail"]
    await http.delete(f"/v1/jobs/{job}")
    assert (await submit(http)).status_code == 202


async def test_vip_may_be_excluded(http: httpx.AsyncClient) -> None:
    await agree(http, vip=False)
    refused = await submit(http, priority="vip")
    assert (refused.status_code, refused.json()["field"]) == (422, "priority")
    assert (await submit(http)).status_code == 202


# -- times to live -----------------------------------------------------------------------------------------------------


async def test_what_is_over_its_time_is_said_to_be_gone(world: World, http: httpx.AsyncClient) -> None:
    await agree(http, keep="1d")
    job = (await submit(http)).json()["id"]
    assert (await http.get(f"/v1/jobs/{job}")).json()["expires_at"] is None
    await finish(world, job)
    expires_at = (world.clock.now() + DAY).isoformat().replace("+00:00", "Z")
    assert (await http.get(f"/v1/jobs/{job}")).json()["expires_at"] == expires_at
    await expire(world, job)
    shown = (await http.get(f"/v1/jobs/{job}")).json()
    words = f"its pictures were removed on {world.clock.now():%Y-%m-%d}, when their time was over"
    assert (shown["state"], shown["photo"], shown["result"], shown["words"]) == ("done", None, None, words)
    assert (shown["version"], shown["expires_at"], shown["run_s"]) == ("v2", None, 0.0)
    gone = await http.get(f"/v1/jobs/{job}/result")
    assert (gone.status_code, gone.json()["detail"]) == (410, f"job {job} is done, but {words}")
    assert (await http.delete(f"/v1/jobs/{job}")).status_code == 204
    assert (await http.get(f"/v1/jobs/{job}/result")).status_code == 404
