"""The callbacks' routes: what is taken, what is refused, what is never read back, and whose it is."""

from typing import Any

import httpx
import pytest
import structlog

from controlplane.auth.keys import KeyRing
from controlplane.courier.model import Heard, Later, Unheard
from controlplane.jobs.model import JobId
from tests.job_builders import PHOTO, WORKFLOW, FakeSender
from tests.unit.api.test_jobs import JPEG, KIND
from tests.unit.api.world import World

SHOP = {"callback": "shop", "address": "https://shop.example.org/hooks?token=s3cret"}
OWN_URL = "https://own.example.net/done?token=s3cret"


@pytest.fixture(autouse=True)
async def _kinds(http: httpx.AsyncClient) -> None:
    assert (await http.put("/v1/job-kinds/person", json=KIND)).status_code == 200


async def submit(http: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await http.post("/v1/jobs", params={"workflow_type": WORKFLOW, **fields}, content=PHOTO, headers=JPEG)


async def test_a_secret_is_shown_once_and_an_address_never(http: httpx.AsyncClient) -> None:
    answer = await http.put("/v1/job-callbacks/shop", json=SHOP)
    made = answer.json()
    assert (answer.status_code, made["changed"], made["words"]) == (200, True, "shop is applied")
    assert made["secret"].startswith("whsec_")
    again = (await http.put("/v1/job-callbacks/shop", json=SHOP)).json()
    assert again == {"callback": "shop", "changed": False, "secret": None, "words": "shop is unchanged"}
    listed = await http.get("/v1/job-callbacks")
    assert listed.json() == [
        {
            "callback": "shop",
            "address": "https://shop.example.org/…",
            "events": ["done", "dead", "cancelled"],
            "signed": True,
        }
    ]
    renewed = (await http.post("/v1/job-callbacks/shop/secret")).json()["secret"]
    assert renewed not in {None, made["secret"]}
    given = {**SHOP, "secret": "whsec_" + "A" * 32}
    assert (await http.put("/v1/job-callbacks/shop", json=given)).json()["secret"] is None
    assert (await http.delete("/v1/job-callbacks/shop")).status_code == 204
    assert (await http.get("/v1/job-callbacks")).json() == []


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"callback": "Shop"}, "callback"),
        ({"callback": "other", "address": SHOP["address"]}, "callback"),
        ({"callback": "shop"}, "address"),
        ({"callback": "shop", "address": "https://evil.example.com/"}, "address"),
        ({"callback": "shop", "address": "https://shop.example.org:99999/"}, "address"),
        ({"callback": "shop", "address": "slack://A/B/C"}, "address"),
        ({"callback": "shop", "address": "http://[s3cret"}, "address"),
        ({"callback": "shop", "address": "HTTPS://shop.example.org/\n"}, "address"),
        ({"callback": "shop", "address": "https://ada:s3cret@shop.example.org/"}, "address"),
        ({**SHOP, "events": ["ended"]}, "events"),
        ({**SHOP, "events": []}, "events"),
        ({**SHOP, "secret": "s3cret"}, "secret"),
        ({**SHOP, "sekret": "whsec_"}, "sekret"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(
    http: httpx.AsyncClient, document: dict[str, Any], field: str
) -> None:
    name = "Shop" if document["callback"] == "Shop" else "shop"
    answer = await http.put(f"/v1/job-callbacks/{name}", json=document)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert "s3cret" not in answer.text
    assert (await http.get("/v1/job-callbacks")).json() == []


async def test_owners_see_and_change_their_own_only(world: World, http: httpx.AsyncClient) -> None:
    await http.put("/v1/job-callbacks/shop", json=SHOP)
    bob = await KeyRing(store=world.store, clock=world.clock).create("bob")
    async with world.http(bob) as theirs:
        assert (await theirs.get("/v1/job-callbacks")).json() == []
        for refused in (
            await theirs.delete("/v1/job-callbacks/shop"),
            await theirs.post("/v1/job-callbacks/shop/secret"),
            await theirs.post("/v1/job-callbacks/shop/test"),
        ):
            assert refused.status_code == 404
    assert len((await http.get("/v1/job-callbacks")).json()) == 1


async def test_a_task_names_who_is_told_in_each_of_the_three_ways(world: World, http: httpx.AsyncClient) -> None:
    refused = await submit(http, callback_url=OWN_URL)
    assert (refused.status_code, refused.json()["field"]) == (422, "callback_url")
    assert "hueshift jobs callbacks secret task" in refused.json()["fix"]
    await http.post("/v1/job-callbacks/task/secret")
    task = {"workflow_type": WORKFLOW, "callback_url": OWN_URL}
    form = {"files": {"image": ("photo.jpg", PHOTO, "image/jpeg")}}
    answers = [
        await submit(http, callback_url=OWN_URL),
        await http.post("/v1/jobs", data=task, **form),  # type: ignore[arg-type] # passed through
        await http.post("/v1/jobs", json={**task, "image_url": "https://photos.example.org/1.jpg"}),
    ]
    now = world.clock.now()
    for answer in answers:
        assert answer.status_code == 202, answer.text
        assert "s3cret" not in answer.text
        assert (await http.post(f"/v1/jobs/{answer.json()['id']}/cancel")).status_code == 202
    taken = await world.store.take_notices(until=now, now=now, room={}, each=9, limit=9)
    assert {notice.address for notice in taken} == {OWN_URL}
    assert len(taken) == 3
    for wrong in ("https://evil.example.com/", "http://127.0.0.1/", "x" * 2001):
        assert (await submit(http, callback_url=wrong)).status_code == 422


async def test_another_address_is_another_request(http: httpx.AsyncClient) -> None:
    await http.post("/v1/job-callbacks/task/secret")
    first = await submit(http, task_id="t", callback_url=OWN_URL)
    assert (await submit(http, task_id="t", callback_url=OWN_URL)).json()["id"] == first.json()["id"]
    assert (await submit(http, task_id="t")).status_code == 409


async def test_a_job_shows_who_was_told_and_how_far_that_is(world: World, http: httpx.AsyncClient) -> None:
    await http.put("/v1/job-callbacks/shop", json=SHOP)
    job = (await submit(http)).json()["id"]
    assert (await http.get(f"/v1/jobs/{job}")).json()["callbacks"] == []
    await http.post(f"/v1/jobs/{job}/cancel")
    now = world.clock.now()
    (notice,) = await world.store.take_notices(until=now, now=now, room={}, each=9, limit=9)
    await world.store.settle_notice(notice, Later("answered 503", now), now=now)
    shown = await http.get(f"/v1/jobs/{job}")
    (told,) = shown.json()["callbacks"]
    assert told["next_at"] is not None
    assert {name: told[name] for name in ("callback", "host", "state", "delivered", "tries", "words", "ended_at")} == {
        "callback": "shop",
        "host": "shop.example.org",
        "state": "cancelled",
        "delivered": False,
        "tries": 1,
        "words": "answered 503",
        "ended_at": None,
    }
    assert told["event"] == notice.message.event
    assert "s3cret" not in shown.text
    (notice,) = await world.store.take_notices(until=now, now=now, room={}, each=9, limit=9)
    await world.store.settle_notice(notice, Heard(), now=now)
    (told,) = (await http.get(f"/v1/jobs/{job}")).json()["callbacks"]
    assert (told["delivered"], told["tries"], told["next_at"]) == (True, 2, None)
    await http.delete(f"/v1/jobs/{job}")
    assert await world.store.load_notices(JobId(job)) == ()


async def test_a_test_says_what_came_of_it(world: World, http: httpx.AsyncClient) -> None:
    await http.put("/v1/job-callbacks/shop", json=SHOP)
    sender = world.app.state.parts.callbacks.senders.webhooks
    assert isinstance(sender, FakeSender)
    sender.answers[SHOP["address"]] = [Unheard("answered 401")]
    path = "/v1/job-callbacks/shop/test"
    assert (await http.post(path)).json() == {"callback": "shop", "delivered": False, "words": "answered 401"}
    assert (await http.post(path)).json() == {"callback": "shop", "delivered": True, "words": "delivered"}


async def test_no_log_line_of_the_api_has_an_address_or_a_secret(http: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        secrets = [
            (await http.put("/v1/job-callbacks/shop", json=SHOP)).json()["secret"],
            (await http.post("/v1/job-callbacks/task/secret")).json()["secret"],
        ]
        await submit(http, callback_url=OWN_URL)
        await http.delete("/v1/job-callbacks/shop")
    assert [entry["event"] for entry in logs] == [
        "job_callback.applied",
        "job_callback.secret_renewed",
        "job.submitted",
        "job_callback.deleted",
    ]
    for secret in (*secrets, "s3cret", "/hooks"):
        assert secret not in str(logs)
