"""Mail and chat by Apprise: to a real SMTP server and a real JSON receiver on loopback.

Slack, WeCom, DingTalk, Feishu and Lark have fixed hosts, which no test may ask: there, what Apprise would send is
looked at where it hands it to `requests`.
"""

import asyncio
import datetime as dt
import email
import email.policy
import json
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiosmtpd.smtp
import pytest
import requests

from controlplane.calls.mail_and_chat import PLUGINS, MailAndChat
from controlplane.clock import SystemClock
from controlplane.courier.model import Heard, Unheard
from controlplane.courier.senders import Sender
from controlplane.errors import InvalidInputError
from controlplane.jobs.callbacks import Message
from controlplane.jobs.sources import read_callback_sources
from tests.receivers import running_receiver
from tests.unit.jobs.test_callbacks import FACTS

pytestmark = pytest.mark.integration

IS_A_SENDER: type[Sender] = MailAndChat  # mypy sits this exam

CLOCK = SystemClock()
MESSAGE = Message(event="evt_1", type="dev.hueshift.job.dead", subject="0" * 32, at=CLOCK.now(), facts=FACTS)
FIXED = {
    "slack": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7/#photos",
    "wecombot": "wecombot://693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa",
    "dingtalk": "dingtalk://" + "a" * 64,
    "feishu": "feishu://693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa",
    "lark": "lark://693a91f6-7aaa-4bc4-97a0-0ec2sifa5aaa",
}
WORKFLOW = "workflows://host.logic.azure.com:443/643e69f83c8944b4843a32a1d7b8cd4d/KOrvEUaSm7lzvwrBPfJ1Xsb4uZ1y1sJ5"


class Mailbox:
    """What a mail server was given; `answer` is what it says to a message."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[Any] = []
        self.to: list[list[str]] = []
        self.answer = "250 OK"

    async def handle_DATA(self, _: object, __: object, envelope: Any) -> str:  # noqa: N802 - the library's name
        if self.answer.startswith("250"):
            self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
            self.to.append(envelope.rcpt_tos)
        return self.answer


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    box = Mailbox()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: aiosmtpd.smtp.SMTP(box, loop=loop), "127.0.0.1", 0) as server:
        box.port = server.sockets[0].getsockname()[1]
        yield box


def sender_to(*ports: int, networks: str = "127.0.0.0/8", **options: object) -> MailAndChat:
    hosts = ", ".join(["host.logic.azure.com", *(f"127.0.0.1:{port}" for port in ports)])
    return MailAndChat(tuple(PLUGINS), read_callback_sources(hosts, networks), **options)  # type: ignore[arg-type] # passed through


async def send(sender: MailAndChat, address: str) -> Heard | Unheard:
    return await sender.send(address, MESSAGE, secrets=(), now=CLOCK.now())


async def test_a_mail_says_what_became_of_a_job(mailbox: Mailbox) -> None:
    sender = sender_to(mailbox.port)
    address = f"mailto://127.0.0.1:{mailbox.port}?from=hueshift@example.org&to=ada@example.org"
    sender.check(address)
    assert await send(sender, address) == Heard()
    (mail,) = mailbox.mails
    assert mailbox.to == [["ada@example.org"]]
    assert (mail["subject"], mail["to"]) == ("Job 7f3a is dead", "ada@example.org")
    text = mail.get_body(("plain", "html")).get_content()
    assert "422: a colour photo" in text
    assert "waited 1.5 s" in text
    assert "<b>" not in text or mail.get_body(("html",)) is None, "a worker's words are no markup"
    assert not list(mail.iter_attachments())


async def test_a_mail_server_that_refuses_or_is_away_leaves_it_unheard(mailbox: Mailbox) -> None:
    sender = sender_to(mailbox.port, 1)
    mailbox.answer = "451 later"
    address = "mailto://127.0.0.1:{}?from=hueshift@example.org&to=ada@example.org"
    assert isinstance(await send(sender, address.format(mailbox.port)), Unheard)
    assert isinstance(await send(sender, address.format(1)), Unheard)
    assert mailbox.mails == []


async def test_json_goes_to_a_receiver_and_its_refusal_is_said() -> None:
    with running_receiver(status=200) as receiver:
        sender = sender_to(receiver.port)
        address = f"json://127.0.0.1:{receiver.port}/hooks"
        assert await send(sender, address) == Heard()
        (body,) = receiver.bodies[""]
        said = json.loads(body)
        assert (said["title"], said["attachments"]) == ("Job 7f3a is dead", [])
        assert "422: a colour photo" in said["message"]
        receiver.status = 503
        assert await send(sender, address) == Unheard("answered 503")
        receiver.status, receiver.headers = 302, {"location": "http://127.0.0.1:1/"}
        assert await send(sender, address) == Unheard("answered 302")
    assert await send(sender, address) == Unheard("its host does not answer")


@pytest.mark.parametrize("service", FIXED)
async def test_what_a_fixed_service_would_be_sent(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, dict[str, Any]]] = []

    def ask(method: str) -> Any:
        def call(*given: Any, **options: Any) -> requests.Response:
            url = given[-1] if given else options["url"]
            asked.append((method, url, options))
            answer = requests.Response()
            answer.status_code = 200
            answer._content = b"ok" if service == "slack" else b'{"errcode": 0, "code": 0, "StatusCode": 0}'
            return answer

        return call

    for method in ("post", "request"):
        monkeypatch.setattr(requests, method, ask(method))
    sender = sender_to()
    sender.check(FIXED[service])
    assert await send(sender, FIXED[service]) == Heard()
    ((_, url, options),) = asked
    assert url.startswith("https://")
    body = json.dumps(options.get("json") or json.loads(options["data"]), ensure_ascii=False)
    assert "Job 7f3a is dead" in body
    assert "422: a colour photo" in body
    assert options["allow_redirects"] is False
    assert options["timeout"] == (5.0, 10.0)
    assert "github" not in body


def test_teams_workflows_are_addresses_too() -> None:
    sender_to().check(WORKFLOW)
    with pytest.raises(InvalidInputError, match="leads to a host that is not allowed"):
        sender_to().check(WORKFLOW.replace("host.logic", "evil.logic"))


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "syslog://",
        "dbus://",
        "apprise://127.0.0.1/x",
        "exec://rm",
        "slack://",
        "slack",
        "mailto://nobody",
        "mailto://a@127.0.0.1:25?to=a@b.org&pgp=encrypt&pgppub=/etc/passwd",
        "mailto://a@127.0.0.1:25?to=a@b.org;pgpprv=/etc/passwd",
        "mailto://a@127.0.0.1:25?to=a@b.org&+X-Header=1",
        "mailto://a@127.0.0.1:25?to=a@b.org&rto=99999",
        "mailto://a@127.0.0.1:25?to=a@b.org&wkd=yes",
        "json://127.0.0.1:25/?method=DELETE",
        "json://127.0.0.1:25/?redirect=yes",
        "json://127.0.0.1:25/?%2BHost=x",
        "json://127.0.0.1:25/?:message=",
        "json://127.0.0.1:26/",
        "json://evil.example.org/",
        "mailto://a:s3cret@evil.example.org",
        "mailto://a:s3cret@127.0.0.1:25?smtp=evil.example.org",
        "mailto://a:s3cret@gmail.com",
        FIXED["slack"] + "?image=yes",
        FIXED["slack"] + "\n",
        "mailto://[s3cret",
        "json://[",
        "json://127.0.0.1:99999999/",
    ],
)
def test_addresses_that_could_do_more_are_refused_and_not_repeated(address: str) -> None:
    sender = sender_to(25)
    with pytest.raises(InvalidInputError) as refused:
        sender.check(address)
    assert refused.value.field == "address"
    assert "s3cret" not in str(refused.value)
    assert "/etc" not in str(refused.value)


async def test_private_addresses_are_refused_unless_their_network_is_named() -> None:
    with running_receiver() as receiver:
        sender = sender_to(receiver.port, networks="")
        address = f"json://127.0.0.1:{receiver.port}/"
        sender.check(address)
        words = "address: leads to an address that is not public; use a public one"
        assert await send(sender, address) == Unheard(words)
    assert receiver.calls == 0


def test_services_that_are_not_of_the_list_are_refused() -> None:
    sources = read_callback_sources("", "")
    with pytest.raises(
        InvalidInputError, match=r"^HUESHIFT_CALLBACK_SERVICES: 'syslog' is not known; use some of: ding"
    ):
        MailAndChat(("slack", "syslog"), sources)
    with pytest.raises(InvalidInputError, match=r"is of a service that is not allowed here \(slack\)"):
        MailAndChat(("slack",), sources).check(FIXED["lark"])


async def test_a_receiver_that_hangs_is_left_behind_and_the_threads_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.calls.mail_and_chat.MAX_THREADS", 2)
    with running_receiver() as receiver:
        receiver.hangs.set()
        sender = sender_to(receiver.port, timeout=dt.timedelta(seconds=0.2))
        address = f"json://127.0.0.1:{receiver.port}/"
        for _ in range(2):
            assert await send(sender, address) == Unheard("not sent within 0.2 s")
        assert await send(sender, address) == Unheard("too much mail and chat is under way")
        receiver.hangs.clear()
        for thread in threading.enumerate():
            if thread.name == "notice":
                await asyncio.to_thread(thread.join, 30)
        assert await send(sender, address) == Heard()


async def test_apprise_writes_no_address_down(mailbox: Mailbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running_receiver(status=500) as receiver:
        sender = sender_to(receiver.port, mailbox.port)
        await send(sender, f"json://u:s3cret@127.0.0.1:{receiver.port}/s3cret")
        await send(sender, f"mailto://127.0.0.1:{mailbox.port}?from=s3cret@example.org&to=s3cret@example.org")
    await send(sender, f"json://u:s3cret@127.0.0.1:{receiver.port}/s3cret")
    ours = [record.getMessage() for record in caplog.records if record.name != "mail.log"]  # the test's server's
    assert "s3cret" not in str(ours)
