"""What is counted of messages."""

from prometheus_client import CollectorRegistry, Counter

from controlplane.courier.loop import Outcome
from controlplane.courier.model import GivenUp, Heard
from controlplane.notify.model import Parcel


class NotifyMetrics:
    """Counts tries by what came of them, and entries of the history that one message told."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tries = Counter(
            "hueshift_notification_tries",
            "Messages about rollouts that were sent, by what came of it: delivered, retried or given_up.",
            ["outcome"],
            registry=registry,
        )
        self._told = Counter(
            "hueshift_notifications_told",
            "Entries of the history that targets were told, by kind; one message may tell several.",
            ["kind"],
            registry=registry,
        )

    def count(self, parcel: Parcel, outcome: Outcome) -> None:
        """Count one try."""
        match outcome:
            case Heard():
                self._tries.labels("delivered").inc()
                for told in (*parcel.message.earlier, parcel.message.telling):
                    self._told.labels(told.kind.value).inc()
            case GivenUp():
                self._tries.labels("given_up").inc()
            case _:
                self._tries.labels("retried").inc()
