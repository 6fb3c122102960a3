"""Messages to programs on loopback that demand what the real ones do: Slack, WeCom, a verifier of webhooks, a gate."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import http.server
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from apprise.plugins.slack import NotifySlack
from apprise.plugins.wecombot import NotifyWeComBot
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat

from controlplane.calls.gate_webhook import MAX_ANSWER_BYTES, GateCalls
from controlplane.calls.mail_and_chat import MailAndChat
from controlplane.calls.webhooks import Webhooks
from controlplane.clock import SystemClock
from controlplane.courier.loop import Courier
from controlplane.courier.senders import Senders
from controlplane.courier.signatures import new_secret
from controlplane.jobs.sources import AllowedSources, read_callback_sources
from controlplane.notify.desk import NotifyDesk
from controlplane.notify.kinds import NotifyKind
from controlplane.notify.model import Parcel, Place, Target
from controlplane.notify.outbox import Messages, Sorter
from controlplane.rollout.gate import Decision
from controlplane.rollout.model import Acked, Advance, Breach, Ready
from controlplane.store import SqlStore, open_store
from controlplane.wake import Wake, WakeBoard
from tests.builders import NOW, make_change, make_spec
from tests.contract.test_notify import happen, start
from tests.fakes import ManualClock
from tests.receivers import running_receiver

pytestmark = pytest.mark.integration

SECOND = dt.timedelta(seconds=1)
PLACE = Place("prod", "https://hueshift.example.org")
BREACH = "error rate 4.7 % (47/1000) > SLO 1 %, v1 at 0 % in the same seconds; evidence 1:310"


@dataclasses.dataclass
class Chat:
    """A chat's entry for robots: what it was told, and what it refused, as its makers write that it does."""

    port: int = 0
    told: list[str] = dataclasses.field(default_factory=list)
    refused: list[str] = dataclasses.field(default_factory=list)


def slack(path: str, kind: str, body: dict[str, Any]) -> tuple[int, bytes, str]:
    """Answer as hooks.slack.com does: plain text, and blocks or attachments with text."""
    if path != "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7":
        return 404, b"no_team", ""
    texts = [body.get("text", ""), *(each.get("text", "") for each in body.get("attachments", ()))]
    if not kind.startswith("application/json") or not any(texts):
        return 400, b"no_text", ""
    if any(len(text) > 40_000 for text in texts):
        return 400, b"msg_too_long", ""
    titles = [each.get("title", "") for each in body.get("attachments", ())]
    return 200, b"ok", "\n".join((*titles, *texts))


def wecom(path: str, kind: str, body: dict[str, Any]) -> tuple[int, bytes, str]:
    """Answer as qyapi.weixin.qq.com does: always 200, with an error code; text of at most 2048 bytes."""
    if path != "/cgi-bin/webhook/send?key=693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa":
        return 200, b'{"errcode": 93000, "errmsg": "invalid webhook url"}', ""
    form = body.get("msgtype")
    text = body.get(form, {}).get("content", "") if form in {"text", "markdown"} else ""
    if not kind.startswith("application/json") or not text:
        return 200, b'{"errcode": 40008, "errmsg": "invalid message type"}', ""
    if len(text.encode()) > 2048:
        return 200, b'{"errcode": 45002, "errmsg": "content exceed max length"}', ""
    return 200, b'{"errcode": 0, "errmsg": "ok"}', text


@contextlib.contextmanager
def running_chat(answers: Callable[[str, str, dict[str, Any]], tuple[int, bytes, str]]) -> Iterator[Chat]:
    """Serve on a port that the kernel chooses."""
    chat = Chat()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer, told = answers(self.path, self.headers["content-type"], body)
            chat.told.append(told) if told else chat.refused.append(answer.decode())
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        chat.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield chat
        finally:
            server.shutdown()
            serving.join()


class ShiftedClock(ManualClock):
    """Stands still at the real present, which verifiers compare with, unless it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = SystemClock().now() - super().now()

    def now(self) -> dt.datetime:
        return super().now() + self._ahead


@dataclasses.dataclass
class Office:
    """Everything that tells, on a real store."""

    store: SqlStore
    clock: ManualClock
    desk: NotifyDesk
    sorter: Sorter
    courier: Courier[Parcel]

    async def tell(self, name: str, address: str) -> str | None:
        """Name a target, return its secret."""
        target = Target(service="colorize", name=name, address=address, kinds=frozenset(NotifyKind))
        _, secret = await self.desk.apply(target, make_change())
        return secret

    async def deliver(self) -> int:
        """Sort and deliver all that is due; return how many messages."""
        count = 0
        await self.sorter.turn()
        now = self.clock.now()
        while taken := await self.courier.store.take_notices(until=now + SECOND, now=now, room={}, each=1, limit=99):
            for parcel in taken:
                await self.courier.deliver(parcel)
            count += len(taken)
        return count


def sources(*ports: int) -> AllowedSources:
    hosts = ", ".join(f"127.0.0.1:{port}" for port in ports)
    return read_callback_sources(hosts, "127.0.0.0/8")


@contextlib.asynccontextmanager
async def open_office(*ports: int) -> AsyncIterator[Office]:
    clock = ShiftedClock()
    allowed = sources(*ports)
    async with await open_store("sqlite://", board=WakeBoard(), clock=clock) as store, Webhooks(allowed) as webhooks:
        await store.apply(make_spec(), by="ada", why="", now=NOW)
        senders = Senders(webhooks=webhooks, others=MailAndChat(("slack", "wecombot"), allowed))
        outgoing = Wake()
        office = Office(
            store,
            clock,
            NotifyDesk(store=store, senders=senders, clock=clock, place=PLACE),
            Sorter(store=store, clock=clock, wake=Wake(), outgoing=outgoing, interval=SECOND),
            Courier(
                store=Messages(store=store, rollouts=store, place=PLACE),
                senders=senders,
                clock=clock,
                wake=outgoing,
                interval=SECOND,
                patience=dt.timedelta(days=1),
                luck=lambda: 0.5,
                host_slots=1,
            ),
        )
        await office.sorter.turn()
        yield office


async def test_slack_and_wecom_are_told_who_what_how_much_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_chat(slack) as team, running_chat(wecom) as group:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{team.port}/services")
        where = f"http://127.0.0.1:{group.port}/cgi-bin/webhook/send?key={{key}}"
        monkeypatch.setattr(NotifyWeComBot, "notify_url", where)
        async with open_office() as office:
            await office.tell("team", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7/#releases")
            await office.tell("group", "wecombot://693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa")
            rollout = await happen(office.store, await start(office.store), Ready(), Acked(), Breach(BREACH), Acked())
            assert await office.deliver() == 8
            deliveries = await office.store.list_deliveries("colorize", "group", limit=9)
            assert all(each.delivered for each in deliveries)
    assert (team.refused, group.refused) == ([], [])
    for chat in (team, group):
        assert len(chat.told) == 4
        last = chat.told[-1].replace("&gt;", ">")
        assert "prod/colorize/v2: rolled back" in last
        assert "rolled back v2: error rate 4.7 % (47/1000) > 1 %" in last
        assert "measured: error rate 4.7 % > 1 % (47 of 1000 requests, odds 310:1)" in last
        assert "by hueshift" in last
        assert f"https://hueshift.example.org/services/{rollout.service}" in last


async def test_a_webhook_is_verified_and_decoded_by_libraries_that_know_nothing_of_us() -> None:
    with running_receiver() as receiver:
        async with open_office(receiver.port) as office:
            receiver.secret = await office.tell("ci", receiver.url) or ""
            assert receiver.secret.startswith("whsec_")
            await happen(office.store, await start(office.store, gate=True), Ready(), Acked(), Advance("enough"))
            assert await office.deliver() == 3
            assert receiver.refused == []
            events = []
            for head, (body,) in zip(receiver.heads, receiver.bodies.values(), strict=True):
                assert head["content-type"].startswith("application/cloudevents+json")
                events.append(from_structured(HTTPMessage(head, body), JSONFormat()))
    assert [event.get_type() for event in events] == [
        "dev.hueshift.rollout.started",
        "dev.hueshift.rollout.step",
        "dev.hueshift.rollout.gate",
    ]
    assert [event.get_id() for event in events] == [head["webhook-id"] for head in receiver.heads]
    gate: Any = events[-1].get_data()
    assert events[-1].get_subject() == gate["rollout"] == "colorize-1"
    assert gate["sentence"] == "paused v2 at 5 %: enough"
    assert gate["approve"] != gate["reject"]
    for link in (gate["approve"], gate["reject"]):
        assert link.startswith("https://hueshift.example.org/links/")


async def test_a_receiver_that_was_away_is_told_after_a_restart_and_a_dead_one_holds_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_receiver() as receiver, running_chat(slack) as team:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{team.port}/services")
        async with open_office(receiver.port) as office:
            await office.tell("team", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7/#releases")
            receiver.secret = await office.tell("ci", receiver.url) or ""
            receiver.status = 503
            rollout = await start(office.store)
            assert await office.deliver() == 2
            await happen(office.store, rollout, Ready(), Acked())
            await office.deliver()
            assert len(team.told) == 2
            receiver.status = 204
            office.clock.move(6 * SECOND)
            taken = await office.courier.store.take_notices(
                until=office.clock.now() + SECOND, now=office.clock.now(), room={}, each=1, limit=9
            )
            assert len(taken) == 1, "and here the process dies"
            office.clock.move(2 * SECOND)
            assert await office.deliver() == 1
            (told,) = [event for events in receiver.taken.values() for event in events]
    assert told["type"] == "dev.hueshift.rollout.step"
    assert [each["type"] for each in told["data"]["earlier"]] == ["dev.hueshift.rollout.started"]
    assert receiver.refused == []


async def test_the_loops_themselves_deliver_what_happens() -> None:
    with running_receiver() as receiver:
        async with open_office(receiver.port) as office:
            receiver.secret = await office.tell("ci", receiver.url) or ""
            await start(office.store)
            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(office.sorter.run()), tasks.create_task(office.courier.run())]
                while not all(each.delivered for each in await office.store.list_deliveries("colorize", "ci", limit=9)):
                    await office.clock.sleep(dt.timedelta(0))
                while not receiver.calls:
                    await office.clock.sleep(dt.timedelta(0))
                for task in running:
                    task.cancel()
    assert receiver.calls == 1


# -- gates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"decision": "open"}', (Decision.OPEN, "")),
        (b'{"decision": "closed", "reason": "tests\\n run", "more": 1}', (Decision.CLOSED, "tests run")),
        (b'{"decision": "abort", "reason": 7}', (Decision.ABORT, "")),
        (b'{"decision": "silent"}', (Decision.SILENT, 'answered no {"decision": "open", "closed" or "abort"}')),
        (b"<html>", (Decision.SILENT, 'answered no {"decision": "open", "closed" or "abort"}')),
        (b'["open"]', (Decision.SILENT, 'answered no {"decision": "open", "closed" or "abort"}')),
        (b" " * (MAX_ANSWER_BYTES + 1), (Decision.SILENT, "answered more than 64 KiB")),
    ],
)
async def test_a_gate_is_asked_signed_and_its_answer_read(answer: bytes, said: tuple[Decision, str]) -> None:
    secret = new_secret()
    with running_receiver(secret=secret, status=200, answer=answer) as receiver:
        async with GateCalls(sources(receiver.port)) as gates:
            now = SystemClock().now()
            ask = gates.ask(
                receiver.url, b'{"data": {}}', event="evt_1", secrets=(secret,), within=10 * SECOND, now=now
            )
            assert await ask == said
    assert receiver.refused == []


async def test_a_gate_that_is_away_slow_redirecting_or_not_allowed_is_silent() -> None:
    with running_receiver(status=302, headers={"location": "http://127.0.0.1:1/"}) as receiver:

        async def ask(gates: GateCalls, url: str, within: dt.timedelta = 10 * SECOND) -> tuple[Decision, str]:
            now = SystemClock().now()
            return await gates.ask(url, b"{}", event="evt_1", secrets=(new_secret(),), within=within, now=now)

        async with GateCalls(sources(receiver.port, 1)) as gates:
            assert await ask(gates, receiver.url) == (Decision.SILENT, "answered 302")
            assert (await ask(gates, "http://127.0.0.1:1/"))[1].startswith("its host does not answer")
            assert "leads to a host that is not allowed" in (await ask(gates, "http://169.254.169.254/latest"))[1]
            receiver.hangs.set()
            assert (await ask(gates, receiver.url, SECOND / 5))[1] == "no answer within 0.2 s"
        async with GateCalls(dataclasses.replace(sources(receiver.port), networks=())) as gates:
            assert "leads to an address that is not public" in (await ask(gates, receiver.url))[1]
