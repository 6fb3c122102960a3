"""Undo, retry, starts that wait and freezes over REST; and everything that must be refused in one line."""

import datetime as dt
from typing import Any

import httpx
import pytest

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant, Role
from controlplane.events.model import EventType, told
from controlplane.ports import ClusterHealth, HistoryEntry, LoggedEntry, Rollout
from controlplane.rollout.model import (
    Baking,
    PauseCause,
    Paused,
    Promote,
    Promoted,
    RollbackCause,
    RolledBack,
    Undo,
)
from tests import builders
from tests.unit.api.world import World

ROLLOUTS = "/v1/services/colorize/rollouts"
STATUS = "/v1/services/colorize/status"
QUEUE = "/v1/services/colorize/queue"
NOW = builders.NOW
LATER = (NOW + dt.timedelta(hours=2)).isoformat()


def command(verb: str) -> str:
    return f"/v1/services/colorize/rollout/{verb}"


@pytest.fixture
async def rollout(world: World) -> Rollout:
    await world.declare(versions=("v1", "v2", "v3"))
    return await world.move(await world.roll(), Baking(0, NOW))


async def promote(world: World, rollout: Rollout) -> None:
    done = await world.move(rollout, Promoted(NOW, "enough"))
    await world.store.save(done, split=builders.make_split(v2=10_000), now=NOW)


async def fail(world: World, rollout: Rollout, cause: RollbackCause = RollbackCause.SLO_BREACH) -> None:
    await world.move(rollout, RolledBack(NOW, cause, "error rate 20 % (20/100) > SLO 1 %"))


# -- undo and retry ----------------------------------------------------------------------------------------------------


async def test_an_undo_while_it_runs_is_a_command(world: World, http: httpx.AsyncClient, rollout: Rollout) -> None:
    answer = await http.post(command("undo"), json={"why": "grey"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["words"] == "all traffic of colorize goes back to v1: rollout colorize-1 ends"
    (pending,) = await world.store.load_pending(rollout.id)
    assert pending.command == Undo("ada", "grey")


async def test_an_undo_later_is_a_rollout_back_once_per_key(
    world: World, http: httpx.AsyncClient, rollout: Rollout
) -> None:
    await promote(world, rollout)
    for _ in range(2):
        answer = await http.post(command("undo"), headers={"Idempotency-Key": "k", "X-Hueshift-Reason": "grey"})
        assert answer.status_code == 202, answer.text
        assert answer.json() == {
            "service": "colorize",
            "rollout": "colorize-2",
            "version": "v1",
            "command": None,
            "words": "all traffic of colorize goes back to v1: rollout colorize-2 takes it there",
        }
    shown = (await http.get("/v1/rollouts/colorize-2")).json()
    assert (shown["baseline"], shown["candidate"], shown["undoes"], shown["why"]) == ("v2", "v1", True, "grey")
    assert [step["weight"] for step in shown["plan"]["steps"]] == ["100%"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 409, "nothing to undo: no rollout of 'colorize' was promoted yet"),
        ({"to": "v3"}, 409, "'v3' has never had the traffic of 'colorize'; start a rollout to it instead"),
        ({"to": 3}, 422, "to: 3 is not a text"),
        ({"too": "v1"}, 422, "too: is not a field here"),
    ],
)
async def test_a_senseless_undo_is_refused(
    world: World, http: httpx.AsyncClient, rollout: Rollout, body: dict[str, Any], status: int, words: str
) -> None:
    await fail(world, rollout)
    answer = await http.post(command("undo"), json=body)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    assert "\n" not in answer.json()["detail"]


async def test_a_retry_is_the_same_rollout_once_more(world: World, http: httpx.AsyncClient, rollout: Rollout) -> None:
    assert (await http.post(command("retry"))).status_code == 409
    await fail(world, rollout)
    for _ in range(2):
        answer = await http.post(command("retry"), json={"why": "more memory"}, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 202, answer.text
        shown = answer.json()
        assert (shown["id"], shown["baseline"], shown["candidate"]) == ("colorize-2", "v1", "v2")
        assert shown["why"] == "colorize-1 once more: more memory"
    again = await world.store.load_latest("colorize")
    assert again is not None
    assert again.plan == rollout.plan
    assert ("ada", "retry") in [(by, what) for by, what, _ in await world.audit()]
    await promote(world, again)
    refused = await http.post(command("retry"))
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "nothing to retry: colorize-2 was promoted; start a rollout to another version",
    )


async def test_a_version_that_failed_is_started_only_again(
    world: World, http: httpx.AsyncClient, rollout: Rollout
) -> None:
    await fail(world, rollout)
    for more in ({}, {"queue": True}, {"at": LATER}):
        answer = await http.post(ROLLOUTS, json={"to": "v2", **more})
        assert answer.status_code == 409
        assert answer.json()["detail"] == (
            "v2 was rolled back in colorize-1: error rate 20 % (20/100) > SLO 1 %; start it with --again (again: true)"
            " if it is to run all the same"
        )
    assert (await http.post(ROLLOUTS, json={"to": "v3"})).status_code == 202
    third = await world.store.load_latest("colorize")
    assert third is not None
    await fail(world, third, RollbackCause.ABORTED)
    assert (await http.post(ROLLOUTS, json={"to": "v2", "again": True})).status_code == 202


# -- the line ----------------------------------------------------------------------------------------------------------


async def test_a_start_that_waits_has_the_id_of_its_rollout(http: httpx.AsyncClient, rollout: Rollout) -> None:
    answer = await http.post(ROLLOUTS, json={"to": "v3", "supersede": True, "why": "newer"})
    assert answer.status_code == 202, answer.text
    shown = answer.json()
    assert (shown["id"], shown["state"], shown["active"], shown["outcome"]) == ("colorize-2", "queued", True, None)
    assert shown["words"] == "rollout colorize-1 makes room for it"
    assert (await http.get("/v1/rollouts/colorize-2")).json() == shown
    queued = await http.post(ROLLOUTS, json={"to": "v3", "queue": True, "only_after_success": True})
    assert queued.json()["words"] == "queued behind colorize-2"
    scheduled = await http.post(ROLLOUTS, json={"to": "v3", "at": LATER, "steps": ["10%", "100%"]})
    assert (scheduled.json()["state"], scheduled.json()["steps"]) == ("scheduled", 2)
    line = (await http.get(QUEUE)).json()
    assert [(each["id"], each["state"]) for each in line] == [
        ("colorize-2", "queued"),
        ("colorize-3", "queued"),
        ("colorize-4", "scheduled"),
    ]
    status = (await http.get(STATUS)).json()
    assert status["waiting"] == line
    assert status["rollout"]["id"] == rollout.id
    assert (await http.get("/v1/services")).json()["items"][0]["waiting"] == 3
    assert (await http.get("/v1/services/colorize/explain")).json()["waiting"] == line


async def test_a_wait_is_cancelled(world: World, http: httpx.AsyncClient, rollout: Rollout) -> None:
    await http.post(ROLLOUTS, json={"to": "v3", "queue": True})
    assert (await http.post(f"{QUEUE}/colorize-9/cancel")).status_code == 404
    answer = await http.post(f"{QUEUE}/colorize-2/cancel", json={"why": "wrong one"})
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["words"]) == ("cancelled", "cancelled by ada: wrong one")
    shown = (await http.get("/v1/rollouts/colorize-2")).json()
    assert (shown["active"], shown["outcome"], shown["state"]) == (False, "cancelled", "cancelled")
    assert (await http.get("/v1/rollouts/colorize-3")).status_code == 404
    assert await world.store.load(rollout.id) == rollout


async def test_a_retry_waits_for_no_dead_worker(world: World, http: httpx.AsyncClient, rollout: Rollout) -> None:
    await fail(world, rollout)
    await world.connect("edge-1")
    await world.report_health(ClusterHealth("edge-1", "colorize_v2", 0, 2))
    refused = await http.post(command("retry"))
    assert refused.status_code == 409
    assert "0 of 2 workers healthy" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"supersede": True, "queue": True}, "queue: is given beside supersede; give one of them"),
        ({"only_after_success": True}, "only_after_success: has nothing to wait for; add queue: true, or at"),
        ({"at": "22:00"}, "at: '22:00' is not a time; write it like 2026-12-01T22:00:00Z"),
        ({"at": "2026-12-01T22:00:00"}, "at: 2026-12-01T22:00:00 has no time zone; add one"),
        ({"at": 1_800_000_000}, "at: 1800000000 is not a time"),
        ({"at": NOW.isoformat()}, "at: 2026-11-22 12:30:15 UTC has passed already; use a time within the next 90 days"),
        ({"at": "2029-01-01T00:00:00Z"}, "at: 2029-01-01 00:00:00 UTC is too far ahead"),
        ({"queue": "yes"}, "queue: "),
    ],
)
async def test_a_senseless_wait_is_refused(
    world: World, http: httpx.AsyncClient, rollout: Rollout, body: dict[str, Any], words: str
) -> None:
    answer = await http.post(ROLLOUTS, json={"to": "v3", **body})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    assert (await http.get(QUEUE)).json() == []
    assert await world.store.load(rollout.id) == rollout


async def test_an_abort_with_nothing_active_cancels_what_waits(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    assert (await http.post(command("abort"))).status_code == 409
    assert (await http.get("/v1/services/colorize/explain")).status_code == 404
    await http.post(ROLLOUTS, json={"to": "v2", "at": LATER})
    explained = (await http.get("/v1/services/colorize/explain")).json()
    assert (explained["state"], explained["summary"]) == ("scheduled", "scheduled for 2026-11-22 14:30:15 UTC")
    taken = (await http.post(command("abort"), json={"why": "not today"})).json()
    assert (taken["number"], taken["words"]) == (0, "colorize-1 waited and never begins")
    assert (await http.get(QUEUE)).json() == []


async def test_an_abort_says_what_starts_afterwards(world: World, http: httpx.AsyncClient, rollout: Rollout) -> None:
    await http.post(ROLLOUTS, json={"to": "v3", "queue": True})
    assert (
        (await http.post(command("undo")))
        .json()["words"]
        .endswith("rollout colorize-1 ends; colorize-2 waits and starts later: hueshift queue colorize")
    )
    taken = (await http.post(command("abort"))).json()
    assert taken["note"] == "colorize-2 waits and starts later: hueshift queue colorize"
    assert len(await world.store.load_pending(rollout.id)) == 2


# -- freezes and the stop ----------------------------------------------------------------------------------------------


async def test_a_freeze_is_shown_everywhere_and_refuses_what_adds_traffic(
    world: World, http: httpx.AsyncClient, rollout: Rollout
) -> None:
    frozen = await http.post("/v1/services/colorize/freeze", json={"until": LATER, "why": "sale"})
    assert frozen.status_code == 200, frozen.text
    words = "colorize is frozen until 2026-11-22 14:30 UTC by ada (sale)"
    assert frozen.json()["words"] == words
    assert (await http.get("/v1/freezes")).json() == [frozen.json()]
    assert (await http.get(STATUS)).json()["frozen"] == words
    assert (await http.get("/v1/services")).json()["items"][0]["frozen"] == words
    assert words in (await http.get("/v1/services/colorize/explain")).json()["summary"]
    refused = await http.post(command("promote"))
    assert refused.status_code == 409
    assert refused.json()["detail"] == (f"cannot promote rollout colorize-1: {words}; abort and undo work all the same")
    assert await world.store.load_pending(rollout.id) == ()
    for verb in ("pause", "undo"):
        assert (await http.post(command(verb))).status_code == 202
    ended = await http.post("/v1/services/colorize/unfreeze", json={"why": "over"})
    assert ended.status_code == 200
    assert (await http.get(STATUS)).json()["frozen"] == ""


async def test_a_resume_below_the_next_step_is_no_more_traffic(
    world: World, http: httpx.AsyncClient, rollout: Rollout
) -> None:
    await http.post("/v1/freeze", json={"until": LATER})
    paused = await world.move(rollout, Paused(0, NOW, PauseCause.OPERATOR, "ada", next_step=0))
    assert (await http.post(command("resume"))).status_code == 202
    handled = await world.store.load_pending(rollout.id)
    await world.store.save(paused, handled=[each.number for each in handled], now=NOW)
    await world.move(await world.store.load(rollout.id), Paused(0, NOW, PauseCause.GATE, "ada", next_step=1))
    assert (await http.post(command("resume"))).status_code == 409


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/freeze", {}, 422, "until: is missing"),
        ("/v1/freeze", {"until": NOW.isoformat()}, 422, "has passed already; use a time within the next 90 days"),
        ("/v1/freeze", {"until": "2029-01-01T00:00:00Z"}, 422, "until: 2029-01-01 00:00 UTC is too far ahead"),
        ("/v1/services/nobody/freeze", {"until": LATER}, 404, "service 'nobody' does not exist"),
        ("/v1/services/colorize/unfreeze", {}, 409, "colorize is not frozen"),
        ("/v1/unfreeze", {}, 409, "everything is not frozen"),
    ],
)
async def test_a_senseless_freeze_is_refused(
    world: World, http: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    await world.declare()
    answer = await http.post(path, json=body)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    assert (await http.get("/v1/freezes")).json() == []


async def test_one_stop_for_everything(world: World, http: httpx.AsyncClient, rollout: Rollout) -> None:
    await http.post(ROLLOUTS, json={"to": "v3", "queue": True})
    stopped = await http.post("/v1/rollouts/abort", json={"why": "fire"})
    assert stopped.status_code == 202
    assert stopped.json() == {
        "rollouts": ["colorize-1"],
        "cancelled": ["colorize-2"],
        "left": [],
        "words": "1 rollout told to abort, 1 waiting start cancelled",
    }
    assert len(await world.store.load_pending(rollout.id)) == 1
    assert (await http.post("/v1/rollouts/abort")).json()["words"].startswith("1 rollout told")


async def test_a_queued_command_before_a_freeze_is_not_judged_by_it(
    world: World, http: httpx.AsyncClient, rollout: Rollout
) -> None:
    await world.store.add_command("colorize", Promote("ada", ""), key=None, now=NOW)
    await http.post("/v1/freeze", json={"until": LATER})
    assert (await http.post(command("promote"))).status_code == 202, "the controller says what becomes of it"
    assert len(await world.store.load_pending(rollout.id)) == 2


async def test_what_waits_is_hidden_like_what_runs(world: World, http: httpx.AsyncClient, rollout: Rollout) -> None:
    await http.post(ROLLOUTS, json={"to": "v3", "queue": True})
    await http.post("/v1/services/colorize/freeze", json={"until": LATER})
    ring = KeyRing(store=world.store, clock=world.clock)
    key = await ring.create("bob", (Grant(Role.ADMIN, "other"),))
    async with world.http(key) as bobs:
        unknown = (await bobs.get("/v1/rollouts/colorize-9")).json()["title"]
        for start in (rollout.id, "colorize-2"):
            answer = await bobs.get(f"/v1/rollouts/{start}")
            assert (answer.status_code, answer.json()["title"]) == (404, unknown)
        assert (await bobs.get("/v1/freezes")).json() == []
        assert (await bobs.post("/v1/rollouts/abort")).status_code == 403


@pytest.mark.parametrize(
    ("entry", "kind", "sentence"),
    [
        (("audit", "queue", "start of a-2 to v3 queued"), EventType.COMMAND, "ada: start of a-2 to v3 queued"),
        (("audit", "freeze", "a is frozen until noon"), EventType.FREEZE, "ada: a is frozen until noon"),
        (("audit", "delete", "deleted; its history is kept"), EventType.DELETE, "ada deleted a; its history is kept"),
        (("audit", "undo", "undo asked for: grey"), EventType.COMMAND, "ada asked to undo v2 (grey)"),
        (("transition", "Dropped", "gave up the start of a-2"), EventType.ROLLOUT, "gave up the start of a-2"),
    ],
)
def test_the_stream_of_events_tells_of_it(entry: tuple[str, str, str], kind: EventType, sentence: str) -> None:
    what, name, words = entry
    after = "Dropped" if what == "transition" else ""
    told_of = LoggedEntry(HistoryEntry(7, NOW, what, "a", None, name, "ada", words, after=after), "v1", "v2", "")
    found = told(told_of)
    assert found.type is kind
    assert sentence in found.wire.decode()
