"""Builds what jobs are made of, for `wiring`: the only module beside it that knows the concrete classes.

Context: jobs need a blob store, a queue and a way to Envoy, each with adapters that few installations have libraries
for. Choice: the address in a setting picks the adapter, which is imported only then.
"""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from controlplane.blobs.directory import DirectoryBlobs
from controlplane.calls.client import EnvoyCalls
from controlplane.calls.fetching import HttpPhotos
from controlplane.calls.webhooks import Webhooks
from controlplane.clock import Clock
from controlplane.courier.loop import Courier
from controlplane.courier.senders import NoSender, Senders
from controlplane.errors import InvalidInputError
from controlplane.jobs.callback_desk import CallbackDesk
from controlplane.jobs.callbacks import Notice
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.dispatcher import Dispatcher
from controlplane.jobs.feed import JobFeed
from controlplane.jobs.intake import TaskIntake
from controlplane.jobs.leftovers import LeftoverScan
from controlplane.jobs.meter import JobMeter
from controlplane.jobs.overseer import Overseer
from controlplane.jobs.owners import Quotas
from controlplane.jobs.ports import BlobStore
from controlplane.jobs.relay import JobKeeper, OutboxRelay
from controlplane.jobs.sources import read_callback_sources, read_sources
from controlplane.settings import Settings
from controlplane.store import SqlStore
from controlplane.store.job_queue import SqlQueue
from controlplane.wake import Topic, Wake, WakeBoard

if TYPE_CHECKING:
    from controlplane.broker.kafka import KafkaQueue
    from controlplane.broker.rabbitmq import RabbitQueue

S3: Final = "s3://"
KAFKA: Final = "kafka:"


@dataclasses.dataclass(slots=True, kw_only=True)
class JobParts:
    """Everything about jobs in one process. Without an Envoy to call there is no dispatcher, and jobs wait."""

    desk: JobDesk
    feed: JobFeed
    overseer: Overseer
    relay: OutboxRelay
    keeper: JobKeeper
    dispatcher: Dispatcher | None
    intake: TaskIntake | None
    callbacks: CallbackDesk
    courier: Courier[Notice]

    async def run(self) -> None:
        """Run the loops until cancelled; if one fails, all stop."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.relay.run(), name="job-relay")
            tasks.create_task(self.keeper.run(), name="job-keeper")
            tasks.create_task(self.courier.run(), name="courier")
            if self.intake is not None:
                tasks.create_task(self.intake.run(), name="task-intake")
            if self.dispatcher is not None:
                tasks.create_task(self.dispatcher.run(), name="job-dispatcher")


@contextlib.asynccontextmanager
async def open_jobs(settings: Settings, *, store: SqlStore, clock: Clock, board: WakeBoard) -> AsyncIterator[JobParts]:
    """Build a process's `JobParts`; let go of queue and Envoy at the end.

    Raises:
        InvalidInputError: A setting leads nowhere, or to an adapter whose library is not installed.
    """
    async with contextlib.AsyncExitStack() as opened:
        queue = _queue(settings, store, clock)
        opened.push_async_callback(queue.close)
        photos = HttpPhotos(read_sources(settings.image_hosts, settings.image_networks))
        source = await opened.enter_async_context(photos)
        callbacks = CallbackDesk(store=store, senders=await _senders(settings, opened), clock=clock)
        desk = JobDesk(
            store=store,
            blobs=_blobs(settings),
            source=source,
            clock=clock,
            quotas=Quotas(
                max_waiting=settings.job_max_waiting, max_daily=settings.job_max_daily, max_bytes=settings.job_max_bytes
            ),
            check_callback=callbacks.check_task,
        )
        dispatcher = None
        if settings.jobs_envoy:
            dispatcher = Dispatcher(
                store=store,
                queue=queue,
                blobs=desk.blobs,
                source=source,
                workers=await opened.enter_async_context(EnvoyCalls(settings.jobs_envoy)),
                clock=clock,
                wake=_listening(board),
                holder=settings.replica,
                slots=settings.job_slots,
                interval=settings.interval,
            )
        relay = OutboxRelay(
            store=store, queue=queue, clock=clock, board=board, wake=_listening(board), interval=settings.interval
        )
        looking = _listening(board, Topic.JOBS, Topic.JOB_STATES)
        feed = JobFeed(store=store, clock=clock, wake=looking, interval=settings.interval)
        yield JobParts(
            desk=desk,
            feed=feed,
            overseer=_overseer(store, queue, desk, clock),
            relay=relay,
            keeper=JobKeeper(
                store=store,
                desk=desk,
                scan=LeftoverScan(store=store, blobs=desk.blobs, clock=clock),
                clock=clock,
                rows_keep=settings.job_rows_keep,
                dry_since=lambda: None if dispatcher is None else dispatcher.dry_since,
            ),
            dispatcher=dispatcher,
            intake=_intake(settings, queue, desk, clock),
            callbacks=callbacks,
            courier=Courier(
                store=store,
                senders=callbacks.senders,
                clock=clock,
                wake=_listening(board, Topic.NOTICES),
                interval=settings.interval,
                patience=settings.callback_patience,
            ),
        )


def _listening(board: WakeBoard, *topics: Topic) -> Wake:
    wake = Wake()
    board.listen(wake, *topics or (Topic.JOBS,))
    return wake


async def _senders(settings: Settings, opened: contextlib.AsyncExitStack) -> Senders:
    sources = read_callback_sources(settings.callback_hosts, settings.callback_networks)
    webhooks = await opened.enter_async_context(Webhooks(sources))
    services = tuple(name.strip().lower() for name in settings.callback_services.split(",") if name.strip())
    if not services:
        return Senders(webhooks=webhooks, others=NoSender())
    try:
        from controlplane.calls.mail_and_chat import MailAndChat  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise _missing("HUESHIFT_CALLBACK_SERVICES", "apprise", "notify") from exc
    return Senders(webhooks=webhooks, others=MailAndChat(services, sources))


def _queue(settings: Settings, store: SqlStore, clock: Clock) -> "SqlQueue | RabbitQueue | KafkaQueue":
    url = settings.queue_url.get_secret_value()
    if not url:
        return SqlQueue(database=store.database, clock=clock)
    return _kafka(url) if url.startswith(KAFKA) else _rabbitmq(url)


def _kafka(url: str) -> "KafkaQueue":
    try:
        from controlplane.broker.kafka import KafkaQueue  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise _missing("HUESHIFT_QUEUE_URL", "confluent-kafka", "kafka") from exc
    return KafkaQueue(url)


def _rabbitmq(url: str) -> "RabbitQueue":
    try:
        from controlplane.broker.rabbitmq import RabbitQueue  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise _missing("HUESHIFT_QUEUE_URL", "aio-pika", "rabbitmq") from exc
    # It logs each attempt to connect as an error of its own; what we cannot do, we say once.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    return RabbitQueue(url)


def _overseer(store: SqlStore, queue: "SqlQueue | RabbitQueue | KafkaQueue", desk: JobDesk, clock: Clock) -> Overseer:
    return Overseer(
        store=store,
        queue=queue,
        tasks=None if isinstance(queue, SqlQueue) else queue,
        blobs=desk.blobs,
        clock=clock,
        meter=JobMeter(store=store, clock=clock),
    )


def _intake(
    settings: Settings, queue: "SqlQueue | RabbitQueue | KafkaQueue", desk: JobDesk, clock: Clock
) -> TaskIntake | None:
    if not settings.tasks_owner:
        return None
    if isinstance(queue, SqlQueue):
        raise InvalidInputError("HUESHIFT_TASKS_OWNER", "needs RabbitMQ or Kafka", "set HUESHIFT_QUEUE_URL, too")
    return TaskIntake(tasks=queue, desk=desk, owner=settings.tasks_owner, clock=clock, interval=settings.interval)


def _blobs(settings: Settings) -> BlobStore:
    where = settings.blobs
    if not where.startswith(S3):
        return DirectoryBlobs(pathlib.Path(where) if where else settings.data_dir / "blobs")
    try:
        from controlplane.blobs.s3 import open_bucket  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise _missing("HUESHIFT_BLOBS", "boto3", "s3") from exc
    bucket, _, prefix = where.removeprefix(S3).partition("/")
    if not bucket:
        raise InvalidInputError("HUESHIFT_BLOBS", "names no bucket", "write it like s3://BUCKET/PREFIX")
    folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    return open_bucket(bucket, prefix=folder, endpoint=settings.s3_endpoint or None)


def _missing(setting: str, package: str, extra: str) -> InvalidInputError:
    return InvalidInputError(setting, f"needs {package}, which is not installed", f"install hueshift[{extra}]")
