"""The counter where owners say whom they want told of their jobs' ends, and the ways to tell them."""

import dataclasses
import uuid
from collections.abc import Iterable
from typing import Final

from controlplane.clock import Clock
from controlplane.courier.model import Heard, Unheard
from controlplane.courier.senders import Senders
from controlplane.courier.signatures import check_secret, new_secret
from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from controlplane.jobs.callback_ports import CallbackStore
from controlplane.jobs.callbacks import EVENTS, OWN, TEST, Callback, Message
from controlplane.jobs.expected import Expected
from controlplane.jobs.model import JobState

MAX_TESTS: Final = 4


@dataclasses.dataclass(slots=True, kw_only=True)
class CallbackDesk:
    """What owners may do with their callbacks; *owner* is the name of their API key."""

    store: CallbackStore
    senders: Senders
    clock: Clock
    _tests: int = 0

    async def check_task(self, address: str, owner: str) -> None:
        """Refuse the callback_url of a task.

        Raises:
            InvalidInputError: It may not be called, or there is nothing to sign the call with.
        """
        self.senders.webhooks.check(address)
        if not await self.store.load_secrets(owner, OWN, now=self.clock.now()):
            raise InvalidInputError(
                "callback_url",
                "would be called without a signature, since you have no secret",
                f"make one: hueshift jobs callbacks secret {OWN}, or PUT /v1/job-callbacks/{OWN}",
            )

    async def apply(
        self,
        owner: str,
        name: str,
        address: str,
        events: Iterable[JobState] = EVENTS,
        *,
        secret: str | None = None,
        expected: Expected[Callback] | None = None,
    ) -> tuple[bool, str | None]:
        """Make a callback what its name means; return whether that changed anything, and its secret if that is new.

        Raises:
            InvalidInputError: It is not sound, or its address may not be called.
            ConflictError: The owner has too many.
            PreconditionFailedError: It is not what was *expected*.
        """
        callback = Callback(owner=owner, name=name, address=address, events=frozenset(events))
        if address:
            try:
                self.senders.of(address).check(address)
            except InvalidInputError as exc:
                raise InvalidInputError("address", exc.problem, exc.fix) from exc
        if secret is not None:
            if not callback.is_signed:
                raise InvalidInputError("secret", "is given for what is not signed", "leave it out for mail and chat")
            check_secret(secret)
        spare = new_secret()
        done = await self.store.apply_callback(
            callback, secret=secret, spare=spare, now=self.clock.now(), expected=expected
        )
        return done.changed, spare if done.fresh else None

    async def renew_secret(self, owner: str, name: str) -> str:
        """Make a new secret and return it, this once; the one before also signs for a day.

        Raises:
            NotFoundError: The owner has no such callback.
            ConflictError: It is not signed.
        """
        secret = new_secret()
        try:
            await self.store.renew_secret(owner, name, secret=secret, now=self.clock.now())
        except NotFoundError:
            if name != OWN:
                raise
            await self.apply(owner, OWN, "", secret=secret)
        return secret

    async def test(self, owner: str, name: str) -> Heard | Unheard:
        """Send a callback a message that is of no job, now.

        Raises:
            NotFoundError: The owner has no such callback.
            InvalidInputError: It has no address of its own.
            UnavailableError: Too many are being tested.
        """
        known = {each.name: each for each in await self.store.list_callbacks(owner)}
        if name not in known:
            raise NotFoundError("callback", name, tuple(known))
        callback, now = known[name], self.clock.now()
        if not callback.address:
            raise InvalidInputError("callback", f"{name} has no address of its own", "test one that has")
        if self._tests >= MAX_TESTS:
            raise UnavailableError(f"{MAX_TESTS} callbacks are being tested already; try again in a moment")
        message = Message(event=f"evt_{uuid.uuid4().hex}", type=TEST, subject=name, at=now, facts={"callback": name})
        secrets = await self.store.load_secrets(owner, name, now=now)
        self._tests += 1
        try:
            return await self.senders.of(callback.address).send(callback.address, message, secrets=secrets, now=now)
        finally:
            self._tests -= 1
