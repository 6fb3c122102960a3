"""Webhooks to a real receiver on loopback: verified there, bounded, and refused where the address is not public."""

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import json
import logging
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from controlplane.calls.webhooks import Webhooks
from controlplane.clock import SystemClock
from controlplane.courier.model import Heard, Unheard
from controlplane.courier.senders import Sender
from controlplane.courier.signatures import new_secret
from controlplane.errors import InvalidInputError
from controlplane.jobs.callbacks import Message
from controlplane.jobs.sources import read_callback_sources
from tests.integration.test_fetching import names
from tests.job_builders import FakeSender
from tests.receivers import Receiver, running_receiver

pytestmark = pytest.mark.integration

ARE_SENDERS: tuple[type[Sender], ...] = (Webhooks, FakeSender)  # mypy sits this exam

CLOCK = SystemClock()
SECRET = new_secret()
MESSAGE = Message(
    event="evt_1",
    type="dev.hueshift.job.done",
    subject="7f3a",
    at=CLOCK.now(),
    facts={"id": "7f3a", "words": "彩色"},
)


@contextlib.asynccontextmanager
async def webhooks(receiver: Receiver, **options: object) -> AsyncIterator[Webhooks]:
    sources = read_callback_sources(f"127.0.0.1:{receiver.port}, localhost:{receiver.port}", "127.0.0.0/8, ::1/128")
    async with Webhooks(sources, **options) as opened:  # type: ignore[arg-type] # passed through
        yield opened


async def send(sender: Webhooks, address: str, *secrets: str) -> Heard | Unheard:
    return await sender.send(address, MESSAGE, secrets=secrets or (SECRET,), now=CLOCK.now())


async def test_a_call_is_a_signed_cloudevent_that_its_receiver_can_verify() -> None:
    with running_receiver(secret=SECRET) as receiver:
        async with webhooks(receiver) as sender:
            assert await send(sender, receiver.url) == Heard()
            assert await send(sender, receiver.url, new_secret(), SECRET) == Heard(), "one of two is enough"
            assert await send(sender, receiver.url, new_secret()) == Unheard("answered 401")
    assert receiver.refused == ["No matching signature found"]
    assert receiver.paths == ["/hooks?token=s3cret"] * 3
    head = receiver.heads[0]
    assert head["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert (head["webhook-id"], head["user-agent"]) == ("evt_1", "hueshift")
    ((body,),) = receiver.bodies.values()
    assert json.loads(body)["data"] == {"id": "7f3a", "words": "彩色"}
    # And by the specification's own words, in case its library and we are wrong together.
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, b"%s.%s.%s" % (b"evt_1", head["webhook-timestamp"].encode(), body), hashlib.sha256).digest()
    assert head["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert abs(int(head["webhook-timestamp"]) - CLOCK.now().timestamp()) < 300


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (200, {}, Heard()),
        (299, {}, Heard()),
        (302, {"location": "/elsewhere"}, Unheard("answered 302: redirects are not followed")),
        (404, {}, Unheard("answered 404")),
        (410, {}, Unheard("answered 410: it wants no more", gone=True)),
        (429, {"retry-after": "7"}, Unheard("answered 429", dt.timedelta(seconds=7))),
        (503, {"retry-after": "Fri, 27 Nov 2026 00:00:00 GMT"}, Unheard("answered 503")),
    ],
)
async def test_what_answers_mean(status: int, headers: dict[str, str], outcome: Heard | Unheard) -> None:
    with running_receiver(status=status, headers=headers) as receiver:
        async with webhooks(receiver) as sender:
            assert await send(sender, receiver.url) == outcome
    assert receiver.calls == 1


async def test_who_hangs_or_is_not_there_is_unheard_within_a_bounded_time() -> None:
    with running_receiver() as receiver:
        receiver.hangs.set()
        async with webhooks(receiver, timeout=dt.timedelta(seconds=0.2)) as sender:
            assert await send(sender, receiver.url) == Unheard("no answer within 0.2 s")
    async with webhooks(receiver) as sender:
        assert await send(sender, receiver.url) == Unheard("its host does not answer (ConnectError)")


async def test_names_that_lead_to_private_addresses_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_receiver() as receiver:
        sources = read_callback_sources(f"127.0.0.1:{receiver.port}, shop.example.org:{receiver.port}", "")
        address = f"http://shop.example.org:{receiver.port}/s3cret"
        async with Webhooks(sources) as sender:
            words = "callback_url: leads to an address that is not public; use a public one"
            assert await send(sender, receiver.url) == Unheard(words)
            names(monkeypatch, ["93.184.216.34", "127.0.0.1"], ["10.1.2.3"], ["::ffff:127.0.0.1"], ["169.254.169.254"])
            for _ in range(4):
                assert await send(sender, address) == Unheard(words)
    assert receiver.calls == 0


async def test_only_hosts_of_the_list_are_called_and_none_is_by_default() -> None:
    async with Webhooks(read_callback_sources("", "")) as sender:
        words = "^callback_url: is not called from here; have HUESHIFT_CALLBACK_HOSTS name its host$"
        with pytest.raises(InvalidInputError, match=words):
            sender.check("https://shop.example.org/")
    async with Webhooks(read_callback_sources("shop.example.org", "")) as sender:
        sender.check("https://shop.example.org/")
        words = "^callback_url: leads to a host that is not allowed; use a host of HUESHIFT_CALLBACK_HOSTS$"
        for address in ("https://evil.example.org/", "https://shop.example.org.evil.example/", "http://127.0.0.1/"):
            with pytest.raises(InvalidInputError, match=words):
                sender.check(address)
            assert isinstance(await send(sender, address), Unheard), "nor when the list was longer once"
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_CALLBACK_HOSTS: .* is no host"):
        read_callback_sources("a/b", "")
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_CALLBACK_NETWORKS: .* is no network"):
        read_callback_sources("", "10.1")


async def test_certificates_are_checked() -> None:
    authority = trustme.CA()
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(here)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with running_receiver(tls=here) as receiver:
        address = f"https://localhost:{receiver.port}/"
        async with webhooks(receiver, trust=trust) as sender:
            assert await send(sender, address) == Heard()
        async with webhooks(receiver) as sender:
            assert await send(sender, address) == Unheard("its host does not answer (ConnectError)")
    assert receiver.calls == 1


async def test_no_library_writes_an_address_down(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running_receiver(status=500) as receiver:
        async with webhooks(receiver) as sender:
            await send(sender, receiver.url)
    assert "s3cret" not in caplog.text
    assert SECRET not in caplog.text
