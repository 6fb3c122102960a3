"""Which queue carries jobs follows from its address."""

import sys
from collections.abc import AsyncIterator

import pytest

from controlplane import job_parts
from controlplane.broker.kafka import KafkaQueue
from controlplane.broker.rabbitmq import RabbitQueue
from controlplane.clock import SystemClock
from controlplane.errors import InvalidInputError
from controlplane.jobs.ports import JobQueue
from controlplane.settings import Settings
from controlplane.store import SqlStore, open_store
from controlplane.store.job_queue import SqlQueue
from controlplane.wake import WakeBoard


@pytest.fixture
async def store() -> AsyncIterator[SqlStore]:
    async with await open_store("sqlite://", board=WakeBoard(), clock=SystemClock()) as opened:
        yield opened


def choose(url: str, store: SqlStore) -> JobQueue:
    return job_parts._queue(Settings.model_validate({"queue_url": url}), store, SystemClock())


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("", SqlQueue),
        ("amqp://guest:guest@localhost/", RabbitQueue),
        ("amqps://localhost/jobs", RabbitQueue),
        ("kafka://one:9092,two:9092", KafkaQueue),
    ],
)
def test_the_address_names_the_adapter(url: str, kind: type[JobQueue], store: SqlStore) -> None:
    assert isinstance(choose(url, store), kind)


@pytest.mark.parametrize("url", ["kafka:one:9092", "kafka://user:secret@one:9092", "redis://one"])
def test_any_other_is_refused_without_repeating_it(url: str, store: SqlStore) -> None:
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_QUEUE_URL: is no address of ") as refusal:
        choose(url, store)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(("url", "extra"), [("kafka://one:9092", "kafka"), ("amqp://one/", "rabbitmq")])
def test_a_library_that_is_not_installed_is_named(
    url: str, extra: str, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"controlplane.broker.{extra}", None)
    with pytest.raises(InvalidInputError, match=rf"HUESHIFT_QUEUE_URL: needs .* install hueshift\[{extra}\]"):
        choose(url, store)
