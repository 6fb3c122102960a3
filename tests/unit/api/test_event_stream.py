"""Everything that happens, over the wire: from the present or from where a reader left, to those who may see it."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.api import event_stream, sse
from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant, Role
from controlplane.events.feed import FellBehindError
from controlplane.events.model import Wanted
from controlplane.rollout.model import NO_STEP, Baking, Pause, RollbackCause, RolledBack, RollingBack, Shifting
from tests import builders
from tests.unit.api.test_job_events import Stream
from tests.unit.api.world import World

BREACH = "error rate 4.7 % (47/1000) > SLO 1 %, v1 at 0 % in the same seconds; evidence 1:310"
SOON = dt.timedelta(seconds=10)
LOGGED = ("rollout", "command", "refused", "apply", "split", "revision", "pictures")


@contextlib.asynccontextmanager
async def listening(
    world: World, query: str = "", *, since: str | None = None, key: str | None = ""
) -> AsyncIterator[Stream]:
    """Follow everything; leave at the end."""
    stream = Stream()
    used = world.key if key == "" else key
    headers = [(b"authorization", f"Bearer {used}".encode())] if used else []
    if since is not None:
        headers.append((b"last-event-id", since.encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/v1/events",
        "raw_path": b"/v1/events",
        "query_string": query.encode(),
        "headers": headers,
    }
    async with asyncio.TaskGroup() as tasks:
        feed = tasks.create_task(world.events.run())
        answer = tasks.create_task(world.app(scope, stream.receive, stream.send))
        yield stream
        stream.left.set()
        await asyncio.wait((answer,))
        feed.cancel()


def logged(stream: Stream) -> list[dict[str, Any]]:
    """Return what happened, without how things stand."""
    return [event for event in stream.events if event["event"] in LOGGED]


def sentences(stream: Stream) -> list[str]:
    return [event["sentence"] for event in logged(stream)]


async def wait_sentence(stream: Stream, words: str) -> list[str]:
    await stream.wait_text(words)
    await stream.wait_text("\n\n")
    return sentences(stream)


async def set_split(world: World) -> None:
    split = builders.make_split(v1=10_000)
    await world.store.set_split("colorize", split, by="ada", why="", now=world.clock.now())


async def roll_back(world: World) -> None:
    """Do what the controller does when the judge has proof."""
    rollout = await world.roll()
    now = world.clock.now()
    rollout = await world.move(
        rollout, Shifting(0, now, NO_STEP), words="v2 is healthy everywhere; shifting to step 1 of 4, 5 %"
    )
    rollout = await world.move(rollout, Baking(0, now), words="every Envoy acknowledged; 5 % is live")
    rollout = await world.move(
        rollout, RollingBack(now, RollbackCause.SLO_BREACH, BREACH), words=f"{BREACH}; all traffic goes back to v1"
    )
    ended = RolledBack(now, RollbackCause.SLO_BREACH, BREACH)
    await world.move(rollout, ended, words="every Envoy acknowledged; rolled back")


async def test_what_happens_is_told_in_sentences_with_measured_value_sign_and_bound(world: World) -> None:
    async with listening(world) as stream:
        await stream.wait_text("event: begin")
        await world.declare()
        await roll_back(world)
        said = await wait_sentence(stream, "rolled back v2")
    told = "error rate 4.7 % (47/1000) > 1 %, v1 at 0 % in the same seconds (odds 310:1)"
    assert said == [
        "ada declared colorize: revision 1 declared",
        "ada started v1 -> v2: rollout colorize-1 from v1 to v2 started: better blues",
        "preparing v2: waiting for healthy workers of v2",
        "shifting v2 to 5 % (step 1 of 4): v2 is healthy everywhere",
        "v2 at 5 % is live: every Envoy acknowledged",
        f"rolling back v2: {told}",
        f"rolled back v2: {told}",
    ]
    last = logged(stream)[-1]
    assert last["measured"] == {
        "what": "error rate",
        "value": "4.7 %",
        "sign": ">",
        "bound": "1 %",
        "bad": 47,
        "total": 1000,
        "odds": 310,
    }
    assert (last["event"], last["service"], last["rollout"], last["after"]) == (
        "rollout",
        "colorize",
        "colorize-1",
        "RolledBack",
    )


async def test_the_present_state_comes_first_and_then_whenever_it_changes(world: World) -> None:
    await world.declare()
    await world.connect("edge-1")
    async with listening(world, "types=state,weights") as stream:
        await stream.wait_text("event: weights")
        begin, state, weights = stream.events
        assert begin["event"] == "begin"
        assert (state["service"], state["rollout"], state["number"]) == ("colorize", None, None)
        assert (weights["set"], weights["envoys"], weights["envoys_acked"]) == ({"v1": 10_000}, 1, 0)
        rollout = await world.roll()
        await world.move(rollout, Baking(0, world.clock.now()))
        await stream.wait_text('"state":"baking"')
        await stream.wait_text('"v2":500')
    assert not logged(stream)


async def test_who_comes_back_misses_nothing_and_gets_nothing_twice_also_after_a_restart(world: World) -> None:
    await world.declare()
    async with listening(world) as first:
        await first.wait_text("event: begin")
        rollout = await world.roll()
        await wait_sentence(first, "preparing v2")
    known = logged(first)[-1]["number"]
    await world.store.add_command("colorize", Pause("ada", "lunch"), key=None, now=world.clock.now())
    world.events.ring.restart(world.events.ring.newest)  # as in a process that has just begun
    await world.move(rollout, Baking(0, world.clock.now()), words="every Envoy acknowledged; 5 % is live")
    async with listening(world, since=known) as second:
        said = await wait_sentence(second, "5 % is live")
    assert said == ["ada asked to pause v2 (lunch)", "v2 at 5 % is live: every Envoy acknowledged"]
    assert second.events[0]["event"] == "begin"
    numbers = [event["number"] for event in logged(first) + logged(second)]
    assert numbers == sorted(set(numbers), key=int)


@pytest.mark.parametrize("since", ["999", "of another kind", "-1", "9" * 30])
async def test_a_place_that_is_none_of_ours_is_answered_with_a_reset_and_the_present(world: World, since: str) -> None:
    await world.declare()
    async with listening(world, since=since) as stream:
        await stream.wait_text("event: weights")
    assert [event["event"] for event in stream.events] == ["reset", "state", "weights"]


async def test_a_place_too_far_back_is_answered_with_a_reset(world: World) -> None:
    await world.declare()
    world.events.ring.max_events = 2
    for _ in range(4):
        await set_split(world)
    async with listening(world, since="2") as stream:
        await stream.wait_text("event: state")
    assert stream.events[0]["event"] == "reset"
    async with listening(world, since="3") as stream:
        await stream.wait_text("event: split")
        await stream.wait_text("event: state")
    assert [event["number"] for event in logged(stream)] == ["4", "5"]


async def test_only_the_services_and_types_that_were_asked_for_are_told(world: World) -> None:
    await world.declare()
    await world.declare(name="other", port=9090)
    async with listening(world, "service=other&types=apply,state") as stream:
        await stream.wait_text("event: state")
        for name in ("colorize", "other"):
            spec = builders.make_spec(name, port=7070 if name == "other" else 7071)
            await world.store.apply(spec, by="ada", why="", now=world.clock.now())
        await stream.wait_text("event: apply")
    assert {event["service"] for event in stream.events[1:]} == {"other"}
    assert {event["event"] for event in stream.events} == {"begin", "state", "apply"}


async def test_a_silent_stream_moves_its_readers_place_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE", dt.timedelta(milliseconds=20))
    await world.declare()
    async with listening(world, "types=pictures") as stream:
        await stream.wait_text(": still here\nid: 1\n\n")


async def test_a_key_that_is_revoked_ends_the_stream(world: World) -> None:
    await world.declare()
    async with listening(world) as stream:
        await stream.wait_text("event: begin")
        await KeyRing(store=world.store, clock=world.clock).revoke("ada")
        for _ in range(2 * sse.ASK_AGAIN):
            world.clock.move(dt.timedelta(seconds=event_stream.ASK_KEY_S))
            await set_split(world)
            if stream.has_end:
                break
            await world.clock.sleep(dt.timedelta(0))
        await stream.wait_end()


async def test_a_reader_that_takes_nothing_is_cut_off_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SLOW_AFTER", dt.timedelta(milliseconds=20))
    cut = functools.partial(world.registry.get_sample_value, "hueshift_api_event_streams_cut_total")
    await world.declare()
    before = cut() or 0
    async with listening(world) as stream:
        await stream.wait_text("event: state")
        stream.is_stuck = True
        await set_split(world)
        async with asyncio.timeout(10):
            while (cut() or 0) == before:
                await world.clock.sleep(dt.timedelta(0))
        assert not stream.has_end, "no proper end: the server closes the connection"


async def test_a_reader_whose_place_is_gone_is_let_go(world: World) -> None:
    await world.declare()
    world.events.ring.max_events = 3
    with world.events.follow(Wanted()) as slow, world.events.follow(Wanted()) as quick:
        await world.events.look()
        for _ in range(2):
            assert await quick.wait_news(SOON)
            for _ in range(3):
                await set_split(world)
            await world.events.look()
        assert await quick.wait_news(SOON)
        with pytest.raises(FellBehindError):
            await slow.wait_news(SOON)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("types=weather", "types: 'weather' is no type of event; use some of rollout, command"),
        ("service=" + ",".join(f"s{n}" for n in range(21)), "service: names 21 services; name 20 at most"),
    ],
)
async def test_a_wrong_question_is_refused_in_one_line(http: httpx.AsyncClient, query: str, words: str) -> None:
    answer = await http.get(f"/v1/events?{query}")
    assert answer.status_code == 422
    assert words in json.dumps(answer.json()["detail"])


async def test_nobody_follows_without_a_key_unless_reading_is_public(world: World, http: httpx.AsyncClient) -> None:
    await http.aclose()
    async with world.http(None) as unknown:
        assert (await unknown.get("/v1/events")).status_code == 401
    world.app.state.parts = dataclasses.replace(world.app.state.parts, public_reads=True)
    await world.declare()
    async with listening(world, key=None) as stream:
        await stream.wait_text("event: state")


async def test_who_sees_some_services_is_told_of_these_alone(world: World) -> None:
    await world.declare()
    ring = KeyRing(store=world.store, clock=world.clock)
    key = await ring.create("bob", (Grant(Role.VIEWER, "other"),))
    async with listening(world, key=key) as stream:
        await stream.wait_text("event: begin")
        await set_split(world)
        await world.store.apply(builders.make_spec("other", port=8090), by="ada", why="", now=world.clock.now())
        assert await wait_sentence(stream, "declared other") == ["ada declared other: revision 1 declared"]
    assert "colorize" not in json.dumps(stream.events)
    async with world.http(key) as http:
        assert (await http.get("/v1/events", params={"service": "colorize"})).status_code == 404


async def test_a_stream_ends_when_its_reader_may_see_less(world: World) -> None:
    await world.declare()
    ring = KeyRing(store=world.store, clock=world.clock)
    key = await ring.create("bob", (Grant(Role.VIEWER, "colorize"), Grant(Role.VIEWER, "other")))
    async with listening(world, key=key) as stream:
        await stream.wait_text("event: begin")
        await ring.set_grants("bob", [Grant(Role.VIEWER, "other")])
        for _ in range(2 * sse.ASK_AGAIN):
            world.clock.move(dt.timedelta(seconds=event_stream.ASK_KEY_S))
            await set_split(world)
            if stream.has_end:
                break
            await world.clock.sleep(dt.timedelta(0))
        await stream.wait_end()
