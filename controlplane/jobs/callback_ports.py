"""What callbacks need from the outside: rows, and ways to send. The rows pass a suite in tests/contract."""

import dataclasses
import datetime as dt
from typing import Protocol

from controlplane.courier.loop import Outbox
from controlplane.jobs.callbacks import Callback, Notice, NoticeState
from controlplane.jobs.expected import Expected
from controlplane.jobs.model import JobId


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What applying a callback did; *fresh* says that the secret offered for one without any was taken."""

    changed: bool
    fresh: bool


class CallbackStore(Outbox[Notice], Protocol):
    """Owners' callbacks, and the notices that every end of a job leaves in its own transaction."""

    async def apply_callback(
        self,
        callback: Callback,
        *,
        secret: str | None,
        spare: str,
        now: dt.datetime,
        expected: Expected[Callback] | None = None,
    ) -> Applied:
        """Make *callback* what its owner's name for it means. Notices that wait for it go to its new address at once.

        Args:
            callback: What is meant.
            secret: The one to sign with from now on; None keeps the one there is.
            spare: Taken where there is none and none is given.
            now: The present moment.
            expected: What it must be, so that nobody else's change is lost; None takes whatever there is.

        Raises:
            PreconditionFailedError: It is not what was *expected*.
            ConflictError: The owner has too many.
        """

    async def renew_secret(self, owner: str, name: str, *, secret: str, now: dt.datetime) -> None:
        """Sign with *secret* from now on, and for `OLD_SECRET_FOR` with the one before, too.

        Raises:
            NotFoundError: The owner has no such callback.
            ConflictError: It is not signed.
        """

    async def list_callbacks(self, owner: str) -> tuple[Callback, ...]:
        """Return an owner's callbacks, by name."""

    async def load_secrets(self, owner: str, name: str, *, now: dt.datetime) -> tuple[str, ...]:
        """Return what a callback is signed with now; nothing where it is not, or not there."""

    async def delete_callback(self, owner: str, name: str) -> None:
        """Forget a callback. Raises NotFoundError."""

    async def load_notices(self, job: JobId) -> tuple[NoticeState, ...]:
        """Return who was or is to be told of a job's end, oldest first."""
