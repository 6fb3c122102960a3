"""Builds what tells of rollouts, for `wiring`."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Final

from prometheus_client import CollectorRegistry

from controlplane.calls.gate_webhook import GateCalls
from controlplane.calls.webhooks import Webhooks
from controlplane.clock import Clock
from controlplane.courier.loop import Courier
from controlplane.courier.senders import NoSender, Sender, Senders
from controlplane.errors import InvalidInputError
from controlplane.jobs.sources import AllowedSources, read_sources
from controlplane.notify.desk import NotifyDesk
from controlplane.notify.metrics import NotifyMetrics
from controlplane.notify.model import EVERY, GATE, Parcel, Place
from controlplane.notify.outbox import Messages, Sorter
from controlplane.settings import Settings, read_public_url
from controlplane.store import SqlStore
from controlplane.wake import Topic, Wake, WakeBoard

PREFIX: Final = "HUESHIFT_NOTIFY"


@dataclasses.dataclass(slots=True, kw_only=True)
class NotifyParts:
    """Everything about messages in one process."""

    desk: NotifyDesk
    sorter: Sorter
    courier: Courier[Parcel]
    gates: GateCalls

    async def run(self) -> None:
        """Run the loops until cancelled; if one fails, all stop."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.sorter.run(), name="notify-sorter")
            tasks.create_task(self.courier.run(), name="notify-courier")

    async def gate_secrets(self, service: str) -> tuple[str, ...]:
        """Return what questions to gates of *service* are signed with: its own secret, or that of all services."""
        store, now = self.desk.store, self.desk.clock.now()
        own = await store.load_target_secrets(service, GATE, now=now)
        return own or await store.load_target_secrets(EVERY, GATE, now=now)


@contextlib.asynccontextmanager
async def open_notify(
    settings: Settings, *, store: SqlStore, clock: Clock, board: WakeBoard, registry: CollectorRegistry
) -> AsyncIterator[NotifyParts]:
    """Build a process's `NotifyParts`; let go of connections at the end.

    Raises:
        InvalidInputError: A setting is wrong, or needs a library that is not installed.
    """
    place = Place(settings.cluster, read_public_url(settings.public_url))
    sources = notify_sources(settings)
    async with Webhooks(sources) as webhooks, GateCalls(dataclasses.replace(sources, field="gate.webhook")) as gates:
        senders = Senders(webhooks=webhooks, others=_others(settings, sources))
        happened, outgoing = Wake(), Wake()
        board.listen(happened, Topic.DESIRED, Topic.COMMANDS, Topic.TELEMETRY)
        yield NotifyParts(
            gates=gates,
            desk=NotifyDesk(store=store, senders=senders, clock=clock, place=place),
            sorter=Sorter(store=store, clock=clock, wake=happened, outgoing=outgoing, interval=settings.interval),
            courier=Courier(
                store=Messages(store=store, rollouts=store, place=place),
                senders=senders,
                clock=clock,
                wake=outgoing,
                interval=settings.interval,
                patience=settings.notify_patience,
                host_slots=1,  # each target hears one thing after the other
                ended=NotifyMetrics(registry).count,
            ),
        )


def notify_sources(settings: Settings) -> AllowedSources:
    """Return whom messages and gates may go to. Raises InvalidInputError, which names the setting."""
    read = read_sources(settings.notify_hosts, settings.notify_networks, PREFIX)
    closed = ("is not called from here", f"have {PREFIX}_HOSTS name its host")
    return dataclasses.replace(read, field="address", settings=PREFIX, closed=closed)


def _others(settings: Settings, sources: AllowedSources) -> Sender:
    setting = f"{PREFIX}_SERVICES"
    services = tuple(name.strip().lower() for name in settings.notify_services.split(",") if name.strip())
    if not services:
        return NoSender(setting)
    try:
        from controlplane.calls.mail_and_chat import MailAndChat  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise InvalidInputError(setting, "needs apprise, which is not installed", "install hueshift[notify]") from exc
    return MailAndChat(services, sources, setting=setting)
