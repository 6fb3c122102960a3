"""Ways to send: the fake that other tests use, webhooks and Apprise, to receivers that take a message or do not."""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Callable

import pytest

from controlplane.calls.mail_and_chat import MailAndChat
from controlplane.calls.webhooks import Webhooks
from controlplane.courier.model import Heard, Unheard
from controlplane.courier.senders import Sender
from controlplane.courier.signatures import new_secret
from controlplane.errors import InvalidInputError
from controlplane.jobs.callbacks import Message
from controlplane.jobs.sources import read_callback_sources
from tests.builders import NOW
from tests.job_builders import FakeSender
from tests.receivers import running_receiver
from tests.unit.jobs.test_callbacks import FACTS

MESSAGE = Message(event="evt_1", type="dev.hueshift.job.done", subject="1", at=NOW, facts=FACTS)


@dataclasses.dataclass
class Way:
    """A sender, the address of somebody, and what makes them refuse and take."""

    sender: Sender
    address: str
    refuse: Callable[[], object]
    take: Callable[[], object]
    received: Callable[[], int]


def fake_way() -> Way:
    sender, address = FakeSender(), "https://shop.example.org/s3cret"
    refuse = [Unheard("answered 503")] * 100
    return Way(
        sender,
        address,
        lambda: sender.answers.update({address: list(refuse)}),
        sender.answers.clear,
        lambda: len(sender.sent),
    )


@contextlib.asynccontextmanager
async def real_way(scheme: str) -> AsyncIterator[Way]:
    with running_receiver(status=200) as receiver:
        sources = read_callback_sources(f"127.0.0.1:{receiver.port}", "127.0.0.0/8")
        async with Webhooks(sources) as webhooks:
            yield Way(
                webhooks if scheme == "http" else MailAndChat(("json",), sources),
                f"{scheme}://127.0.0.1:{receiver.port}/s3cret",
                lambda: setattr(receiver, "status", 503),
                lambda: setattr(receiver, "status", 200),
                lambda: receiver.calls,
            )


@pytest.fixture(
    params=[
        "fake",
        pytest.param("http", marks=pytest.mark.integration),
        pytest.param("json", marks=pytest.mark.integration),
    ]
)
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    if request.param == "fake":
        yield fake_way()
        return
    async with real_way(request.param) as opened:
        yield opened


async def test_who_takes_a_message_has_heard_it_and_who_does_not_has_not(way: Way) -> None:
    secrets = (new_secret(),)
    assert await way.sender.send(way.address, MESSAGE, secrets=secrets, now=NOW) == Heard()
    assert way.received() == 1
    way.refuse()
    refused = await way.sender.send(way.address, MESSAGE, secrets=secrets, now=NOW + dt.timedelta(seconds=5))
    assert refused == Unheard("answered 503")
    way.take()
    assert await way.sender.send(way.address, MESSAGE, secrets=secrets, now=NOW) == Heard()
    assert way.received() == 3


async def test_hosts_that_are_not_of_the_list_are_refused_without_their_secrets(way: Way) -> None:
    way.sender.check(way.address)
    scheme = way.address.partition("://")[0]
    for wrong in (f"{scheme}://evil.example.com/s3cret", f"{scheme}://a:s3cret@evil.example.com/", "s3cret", ""):
        with pytest.raises(InvalidInputError) as refused:
            way.sender.check(wrong)
        assert "s3cret" not in str(refused.value)
