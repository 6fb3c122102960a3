"""The counter where admins say who is told of rollouts, and where links are used."""

import dataclasses
import uuid
from typing import Final

from controlplane.clock import Clock
from controlplane.courier.model import Heard, Unheard
from controlplane.courier.senders import Senders
from controlplane.courier.signatures import check_secret, new_secret
from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from controlplane.notify.links import Link, check_link, digest_of
from controlplane.notify.model import Place, Target, Trial
from controlplane.notify.ports import NotifyStore
from controlplane.ports import Change

MAX_TESTS: Final = 4


@dataclasses.dataclass(slots=True, kw_only=True)
class NotifyDesk:
    """What admins may do with targets, and anybody with a link."""

    store: NotifyStore
    senders: Senders
    clock: Clock
    place: Place
    _tests: int = 0

    async def apply(self, target: Target, change: Change, *, secret: str | None = None) -> tuple[bool, str | None]:
        """Make a target what its name means; return whether that changed anything, and its secret if that is new.

        Raises:
            InvalidInputError: It is not sound, or its address may not be called.
            ConflictError: There are too many.
        """
        if target.address:
            try:
                self.senders.of(target.address).check(target.address)
            except InvalidInputError as exc:
                raise InvalidInputError("address", exc.problem, exc.fix) from exc
        if secret is not None:
            if not target.is_signed:
                raise InvalidInputError("secret", "is given for what is not signed", "leave it out for mail and chat")
            check_secret(secret)
        spare = new_secret()
        done = await self.store.apply_target(target, change, secret=secret, spare=spare)
        return done.changed, spare if done.fresh else None

    async def renew_secret(self, service: str, name: str, change: Change) -> str:
        """Make a new secret and return it, this once; the one before also signs for a day.

        Raises:
            NotFoundError: There is no such target.
            ConflictError: It is not signed.
        """
        secret = new_secret()
        await self.store.renew_target_secret(service, name, change, secret=secret)
        return secret

    async def test(self, service: str, name: str, *, by: str) -> Heard | Unheard:
        """Send a target a message that is of no rollout, now.

        Raises:
            NotFoundError: There is no such target.
            InvalidInputError: It has no address of its own.
            UnavailableError: Too many are being tested.
        """
        known = {each.name: each for each in await self.store.list_targets() if each.service == service}
        if name not in known:
            raise NotFoundError("notification target", name, tuple(known))
        target, now = known[name], self.clock.now()
        if not target.address:
            raise InvalidInputError("target", f"{name} has no address of its own", "test one that has")
        if self._tests >= MAX_TESTS:
            raise UnavailableError(f"{MAX_TESTS} targets are being tested already; try again in a moment")
        trial = Trial(event=f"evt_{uuid.uuid4().hex}", target=target, place=self.place, at=now, by=by)
        secrets = await self.store.load_target_secrets(service, name, now=now)
        self._tests += 1
        try:
            return await self.senders.of(target.address).send(target.address, trial, secrets=secrets, now=now)
        finally:
            self._tests -= 1

    async def look_at(self, token: str) -> Link:
        """Return what a link would do now; that changes nothing.

        Raises:
            NotFoundError: It is none.
            DeadLinkError: It opens nothing.
        """
        link, rollout = await self.store.load_link(digest_of(token))
        check_link(link, rollout, now=self.clock.now())
        return link

    async def use(self, token: str, *, why: str) -> Link:
        """Do what a link says, once. Raises as `look_at` does."""
        return await self.store.use_link(digest_of(token), why=why, now=self.clock.now())
