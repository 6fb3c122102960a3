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
from controlplane.events.model import LEVELS, EventType, Wanted
from controlplane.ports import EnvoyAnswer
from controlplane.rollout.model import NO_STEP, Baking, Pause, RollbackCause, RolledBack, RollingBack, Shifting
from tests import builders
from tests.unit.api.test_job_events import Stream
from tests.unit.api.world import World, make_event_feed

BREACH = "error rate 4.7 % (47/1000) > SLO 1 %, v1 at 0 % in the same seconds; evidence 1:310"
SOON = dt.timedelta(seconds=10)
LOGGED = frozenset(EventType) - LEVELS


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


async def tell_until_it_ends(world: World, stream: Stream) -> None:
    """Let things happen while time passes, until the reader's right to hear of them was looked at."""
    async with asyncio.timeout(10):
        while not stream.has_end:
            world.clock.move(dt.timedelta(seconds=event_stream.ASK_KEY_S))
            await set_split(world)
            await world.clock.sleep(dt.timedelta(0))


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


async def test_what_envoys_say_is_told_to_the_readers_of_the_services_in_it(world: World) -> None:
    now = world.clock.now()
    await world.declare()
    await world.store.propose_snapshot(builders.make_snapshot())
    ack = EnvoyAnswer("rds", "s1-r", acked=True, nodes=("edge-1", "edge-2", "edge-3", "edge-4"), count=9, at=now)
    nack = EnvoyAnswer("lds", "s1-l", acked=False, nodes=("edge-1",), count=1, at=now, words="port is taken")
    await world.store.record_nodes([builders.make_node()], answers=[ack, nack])
    for query, expected in (
        (
            "service=colorize",
            ["edge-1, edge-2, edge-3 and 6 more acknowledged RDS s1-r", "edge-1 refused LDS s1-l: port is taken"],
        ),
        ("types=nack", ["edge-1 refused LDS s1-l: port is taken"]),
        ("service=other", []),
    ):
        async with listening(world, f"{query}&last=2&follow=false") as stream:
            await stream.wait_text("event: live")
        assert sentences(stream) == expected


async def test_the_newest_seconds_are_told_of_services_that_were_asked_for_by_name(world: World) -> None:
    await world.declare()
    for second in range(1, 8):
        v1 = builders.make_counts(100, errors=second)
        await world.store.record(builders.make_batch("one", tick=builders.TICK - second, colorize_v1=v1))
    async with listening(world, "service=colorize&types=series&follow=false") as stream:
        await stream.wait_text("event: live")
    series = next(event for event in stream.events if event["event"] == "series")
    assert (series["service"], series["at"]) == ("colorize", list(range(builders.TICK - 5, builders.TICK)))
    v1, v2 = series["versions"]
    assert (v1["version"], v1["requests"], v1["errors"]) == ("v1", [100] * 5, [5, 4, 3, 2, 1])
    assert v1["error_low"][0] < v1["error_rate"][0] == 0.05 < v1["error_high"][0]
    assert v2["requests"] == [None] * 5
    async with listening(world, "follow=false") as stream:
        await stream.wait_text("event: live")
    assert "series" not in {event["event"] for event in stream.events}


async def test_the_present_state_comes_first_and_then_whenever_it_changes(world: World) -> None:
    await world.declare()
    await world.connect("edge-1")
    async with listening(world, "types=state,weights") as stream:
        await stream.wait_text("event: weights")
        begin, state, weights, live = stream.events
        assert live["event"] == "live"
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
    world.events = make_event_feed(world.store, world.clock, world.store.database.board)  # of another process
    world.app.state.parts = dataclasses.replace(world.app.state.parts, events=world.events)
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
    assert [event["event"] for event in stream.events] == ["reset", "state", "weights", "live"]


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


async def test_the_last_events_of_the_past_are_told_on_request_and_a_stream_may_end_there(world: World) -> None:
    await world.declare()
    await world.declare(name="other", port=9090)
    for _ in range(3):
        await set_split(world)
    async with listening(world, "service=colorize&types=split,apply&last=3&follow=false") as stream:
        await stream.wait_text("event: live")
        await stream.wait_end()
    assert [event["event"] for event in stream.events] == ["begin", "split", "split", "split", "live"]
    assert (stream.events[0]["number"], stream.events[-1]["number"]) == ("2", "5")
    async with listening(world, "service=colorize&types=split,apply&last=100&follow=false") as stream:
        await stream.wait_text("event: live")
        await stream.wait_end()
    assert [event["number"] for event in logged(stream)] == ["1", "3", "4", "5"]


async def test_only_the_services_and_types_that_were_asked_for_are_told(world: World) -> None:
    await world.declare()
    await world.declare(name="other", port=9090)
    async with listening(world, "service=other&types=apply,state") as stream:
        await stream.wait_text("event: state")
        for name in ("colorize", "other"):
            spec = builders.make_spec(name, port=7070 if name == "other" else 7071)
            await world.store.apply(spec, by="ada", why="", now=world.clock.now())
        await stream.wait_text("event: apply")
    assert {event["service"] for event in stream.events if "service" in event} == {"other"}
    assert {event["event"] for event in stream.events} == {"begin", "live", "state", "apply"}


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
        await tell_until_it_ends(world, stream)


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
        await tell_until_it_ends(world, stream)
