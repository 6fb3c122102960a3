"""The jobs' routes: what is taken in and how, what is refused before anything is stored, and who may see what."""

import json
from typing import Any

import httpx
import pytest

from controlplane.api import job_routes
from controlplane.auth.keys import KeyRing
from controlplane.jobs.model import Claim, JobId, photo_key, result_key
from tests.job_builders import PHOTO, PNG, WORKFLOW, make_picture
from tests.unit.api.world import World

KIND: dict[str, Any] = {
    "kind": "person",
    "workflow": WORKFLOW,
    "models": ["ddcolor-imagenet", "ddcolor-artistic"],
    "sizes": {"min": 460, "max": 680, "default": 640},
    "route": {"headers": {"X-Model-Type": "person"}},
}
TASK = {
    "task_id": "7f3a",
    "workflow_type": WORKFLOW,
    "parameters": {"size": 680, "model": "ddcolor-imagenet"},
}
UPLOAD = {"image": ("photo.jpg", PHOTO, "image/jpeg")}
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(autouse=True)
async def _kinds(http: httpx.AsyncClient) -> None:
    assert (await http.put("/v1/job-kinds/person", json=KIND)).status_code == 200


async def submit(http: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await http.post("/v1/jobs", params={"workflow_type": WORKFLOW, **fields}, content=PHOTO, headers=JPEG)


async def finish(world: World, job: str) -> None:
    """Do what the dispatcher does."""
    now = world.clock.now()
    claimed = await world.store.claim_job(JobId(job), holder="test", until=now, now=now)
    assert claimed is not None
    picture = make_picture(result_key(claimed.id, 1), PNG)
    await world.blobs.put_blob(picture.key, PNG)
    assert await world.store.finish_job(Claim(claimed.id, 1), picture, version="v2", now=now)


# -- kinds -------------------------------------------------------------------------------------------------------------


async def test_a_kind_is_read_back_with_its_defaults_filled_in(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/job-kinds")).json() == [
        {
            **KIND,
            "queue": "person",
            "route": {"path": "/repair", "headers": {"x-model-type": "person"}},
            "timeout": "300s",
            "attempts": 5,
            "service": "",
            "keep": "7d",
            "strip_metadata": True,
            "label": True,
        }
    ]
    again = (await http.put("/v1/job-kinds/person", json=KIND)).json()
    assert again == {"kind": "person", "changed": False, "words": "person is unchanged"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "Person"}, "kind"),
        ({"queue": "dead"}, "queue"),
        ({"kind": "other"}, "kind"),
        ({"workflow": ""}, "workflow"),
        ({"models": []}, "models"),
        ({"models": ["a\nb"]}, "models[1]"),
        ({"sizes": {"min": 680, "max": 460}}, "sizes"),
        ({"sizes": {"min": 460, "max": 680, "default": 700}}, "sizes"),
        ({"sizes": {"min": 1, "max": 680}}, "sizes"),
        ({"queue": "a.b"}, "queue"),
        ({"route": {"path": "repair"}}, "route.path"),
        ({"route": {"path": "/repair?x"}}, "route.path"),
        ({"route": {"headers": {"a b": "c"}}}, "route.headers.a b"),
        ({"route": {"headers": {"a": "b\r\nc: d"}}}, "route.headers.a"),
        ({"timeout": "0s"}, "timeout"),
        ({"attempts": 0}, "attempts"),
        ({"colour": "blue"}, "colour"),
    ],
)
async def test_a_kind_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    answer = await http.put("/v1/job-kinds/person", json={**KIND, **changes})
    assert (answer.status_code, answer.json()["field"]) == (422, field)


# -- what is taken in --------------------------------------------------------------------------------------------------


async def test_a_photo_is_taken_in_at_once_as_a_form_with_the_task_as_it_is(
    world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/jobs", files=UPLOAD, data={"task": json.dumps(TASK, ensure_ascii=False)})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["task_id"], job["kind"], job["model"], job["size"]) == ("7f3a", "person", "ddcolor-imagenet", 680)
    assert (job["state"], job["priority"], job["attempts"], job["result"]) == ("waiting", "normal", 0, None)
    assert (job["photo"]["media_type"], job["photo"]["size_bytes"]) == ("image/jpeg", len(PHOTO))
    assert (await http.get(f"/v1/jobs/{job['id']}")).json() == {**job, "callbacks": []}
    assert await world.blobs.get_blob(photo_key(job["id"])) == PHOTO
    (entry,) = await world.store.load_outbox(now=world.clock.now())
    assert (entry.wake_up.job, entry.wake_up.queue, entry.wake_up.vip) == (job["id"], "person", False)


@pytest.mark.parametrize("name", ["image", "file"])
async def test_fields_may_come_one_by_one(http: httpx.AsyncClient, name: str) -> None:
    fields = {"workflow_type": WORKFLOW, "size": "460", "model": "ddcolor-artistic", "priority": "vip"}
    job = (await http.post("/v1/jobs", files={name: UPLOAD["image"]}, data=fields)).json()
    assert (job["size"], job["model"], job["priority"]) == (460, "ddcolor-artistic", "vip")
    assert job["task_id"] == job["id"], "where a producer names none, ours is the name"


@pytest.mark.parametrize("kind", ["image/jpeg", "image/whatever", "application/octet-stream"])
async def test_the_photo_may_be_the_body_itself(http: httpx.AsyncClient, kind: str) -> None:
    answer = await http.post(
        "/v1/jobs", params={"workflow_type": WORKFLOW}, content=PNG, headers={"Content-Type": kind}
    )
    assert (answer.status_code, answer.json()["size"]) == (202, 640)
    assert answer.json()["photo"]["media_type"] == "image/png", "by what it is, not by what it is called"


async def test_a_request_that_is_repeated_is_one_job(world: World, http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = await http.post("/v1/jobs", files=UPLOAD, data={"workflow_type": WORKFLOW}, headers=key)
    again = await http.post("/v1/jobs", files=UPLOAD, data={"workflow_type": WORKFLOW}, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    other = await http.post("/v1/jobs", files=UPLOAD, data={"workflow_type": WORKFLOW, "size": "500"}, headers=key)
    assert other.status_code == 409
    assert len((await http.get("/v1/jobs")).json()["items"]) == 1
    photos = [path.name for path in (world.blobs.folder / "photos").iterdir()]
    assert photos == [first.json()["id"]], "the photos of the other two are not kept"


async def test_a_task_id_is_one_job_for_its_owner(http: httpx.AsyncClient) -> None:
    first, again = await submit(http, task_id="t"), await submit(http, task_id="t")
    assert again.json() == first.json()
    other = await submit(http, task_id="t", priority="vip")
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ({}, "workflow_type"),
        ({"workflow_type": 7}, "workflow_type"),
        ({"workflow_type": "unknown.json"}, "workflow_type"),
        ({**TASK, "parameters": {"model": "gpt"}}, "parameters.model"),
        ({**TASK, "parameters": {"size": 459}}, "parameters.size"),
        ({**TASK, "parameters": {"size": 681}}, "parameters.size"),
        ({**TASK, "parameters": {"size": 640.5}}, "parameters.size"),
        ({**TASK, "parameters": {"size": True}}, "parameters.size"),
        ({**TASK, "parameters": {"colour": 1}}, "parameters.colour"),
        ({**TASK, "parameters": []}, "image"),
        ({**TASK, "parameters": [1]}, "parameters"),
        ({**TASK, "priority": "highest"}, "priority"),
        ({**TASK, "task_id": ""}, "task_id"),
        ({**TASK, "task_id": "a\x00b"}, "task_id"),
        ({**TASK, "task_id": "x" * 201}, "task_id"),
        ({**TASK, "callback": "http://example.org"}, "callback"),
        ({**TASK, "image_url": "http://169.254.169.254/latest"}, "image_url"),
        ({**TASK, "image_url": "x" * 2001}, "image_url"),
        (TASK, "image"),
        ([TASK], "body"),
    ],
)
async def test_a_task_that_is_not_sound_leaves_no_row_no_photo_and_no_message(
    world: World, http: httpx.AsyncClient, task: object, field: str
) -> None:
    answer = await http.post("/v1/jobs", json=task)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert (await http.get("/v1/jobs")).json()["items"] == []
    assert await world.store.load_outbox(now=world.clock.now()) == ()
    assert not world.blobs.folder.exists()


async def test_the_articles_task_is_accepted_as_it_is_and_its_photo_fetched_later(
    world: World, http: httpx.AsyncClient
) -> None:
    task = {**TASK, "image_url": "https://photos.example.org/1.jpg?token=secret"}
    answer = await http.post("/v1/jobs", json=task)
    assert (answer.status_code, answer.json()["photo"]) == (202, None)
    assert "secret" not in answer.text
    assert (await http.post("/v1/jobs", json=task)).json() == answer.json()
    other = {**task, "image_url": "https://photos.example.org/2.jpg"}
    assert (await http.post("/v1/jobs", json=other)).status_code == 409
    assert not world.blobs.folder.exists()


@pytest.mark.parametrize(
    "body", [b"", b"<svg/>", b"\x1f\x8b zip", b"GIF89a", PHOTO[:-2], PHOTO + b"<?php exec($_GET[0]);"]
)
async def test_what_is_no_photo_is_refused_whatever_it_is_called(
    world: World, http: httpx.AsyncClient, body: bytes
) -> None:
    answer = await http.post("/v1/jobs", params={"workflow_type": WORKFLOW}, content=body, headers=JPEG)
    assert (answer.status_code, answer.json()["field"]) == (422, "image")
    assert not world.blobs.folder.exists()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 422, "Content-Type: 'text/plain' is not read"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "body: is not JSON"),
        ({"files": UPLOAD, "data": {"task": "{"}}, 422, "task: is not JSON"),
        ({"files": UPLOAD, "data": {"task": "{}", "size": "5"}}, 422, "task: is given beside its fields"),
        ({"files": {"photo": UPLOAD["image"]}}, 422, "photo: is not a file's field here"),
        (
            {"files": UPLOAD, "data": {"workflow_type": WORKFLOW, "size": "large"}},
            422,
            "parameters.size: 'large' is not a number of pixels",
        ),
        (
            {"files": UPLOAD, "data": {"workflow_type": WORKFLOW, "image_url": "http://x"}},
            422,
            "image_url: is given beside a photo",
        ),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "body: cannot be read"),
    ],
)
async def test_what_cannot_be_read_is_refused_in_one_line(
    http: httpx.AsyncClient, options: dict[str, Any], status: int, words: str
) -> None:
    answer = await http.post("/v1/jobs", **options)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(words)


async def test_a_photo_may_be_larger_than_other_bodies_but_not_without_end(http: httpx.AsyncClient) -> None:
    large = PHOTO + b"\0" * 2 * 1024 * 1024
    assert (
        await http.post("/v1/jobs", params={"workflow_type": WORKFLOW}, content=large, headers=JPEG)
    ).status_code == 202
    endless = await http.post(
        "/v1/jobs", params={"workflow_type": WORKFLOW}, content=bytes(34 * 1024 * 1024), headers=JPEG
    )
    assert (endless.status_code, endless.json()["detail"]) == (413, "the body is larger than 33792 KiB; send less")


async def test_more_uploads_than_memory_are_told_to_come_again(world: World, http: httpx.AsyncClient) -> None:
    world.app.state.uploads = job_routes.MAX_UPLOADS
    answer = await submit(http)
    world.app.state.uploads = 0
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert (await submit(http)).status_code == 202
    assert world.app.state.uploads == 0


# -- what is collected -------------------------------------------------------------------------------------------------


async def test_a_result_is_downloaded_with_its_version(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()
    early = await http.get(f"/v1/jobs/{job['id']}/result")
    assert (early.status_code, early.json()["detail"]) == (
        409,
        f"job {job['id']} is waiting; only one that is done has a result",
    )
    await finish(world, job["id"])
    answer = await http.get(f"/v1/jobs/{job['id']}/result")
    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, PNG, "image/png")
    assert answer.headers["X-Model-Version"] == "v2"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}.png"'
    assert answer.headers["Cache-Control"] == "private, no-store"
    done = (await http.get(f"/v1/jobs/{job['id']}")).json()
    assert (done["state"], done["version"], done["wait_s"], done["run_s"]) == ("done", "v2", 0.0, 0.0)


async def test_a_job_may_be_cancelled_until_it_has_ended(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    for _ in range(2):
        answer = await http.post(f"/v1/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    done = (await submit(http)).json()["id"]
    await finish(world, done)
    assert (await http.post(f"/v1/jobs/{done}/cancel")).status_code == 409


async def test_a_deleted_job_is_gone_with_its_pictures(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    await finish(world, job)
    assert (await http.delete(f"/v1/jobs/{job}")).status_code == 204
    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/result"):
        assert (await http.get(path)).status_code == 404
    assert (await http.delete(f"/v1/jobs/{job}")).status_code == 404
    assert [path for path in world.blobs.folder.rglob("*") if path.is_file()] == []


async def test_nobody_sees_another_owners_jobs(world: World, http: httpx.AsyncClient) -> None:
    job = (await submit(http)).json()["id"]
    await finish(world, job)
    async with world.http(await KeyRing(store=world.store, clock=world.clock).create("bob")) as bobs:
        assert (await bobs.get("/v1/jobs")).json() == {"items": [], "next": None}
        for method, path in (
            ("GET", f"/v1/jobs/{job}"),
            ("GET", f"/v1/jobs/{job}/result"),
            ("POST", f"/v1/jobs/{job}/cancel"),
            ("DELETE", f"/v1/jobs/{job}"),
            ("GET", f"/v1/jobs?before={job}"),
        ):
            assert (await bobs.request(method, path)).status_code == 404
    assert (await http.get(f"/v1/jobs/{job}/result")).content == PNG


async def test_a_list_is_read_page_by_page(world: World, http: httpx.AsyncClient) -> None:
    ids = [(await submit(http)).json()["id"] for _ in range(3)]
    await finish(world, ids[0])

    async def listed(**query: str | int) -> list[str]:
        return [job["id"] for job in (await http.get("/v1/jobs", params=query)).json()["items"]]

    assert await listed() == ids[::-1]
    assert await listed(limit=2) == [ids[2], ids[1]]
    following = (await http.get("/v1/jobs", params={"limit": 2})).json()["next"]
    await http.delete(f"/v1/jobs/{ids[1]}")
    assert await listed(limit=2, cursor=following) == [ids[0]], "a job that is deleted leaves its place"
    assert await listed(before=ids[2]) == [ids[0]]
    assert await listed(state="done") == [ids[0]]
    assert (await http.get("/v1/jobs", params={"state": "blue"})).status_code == 422
