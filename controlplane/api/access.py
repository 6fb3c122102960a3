"""What stands between a request and the store: who asks, whether they may, and why they do."""

import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Annotated, TypeAlias

from fastapi import Depends, Header, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.identity import COOKIE, Identity, identify, recognise
from controlplane.api.permissions import RULES, Rule, refuse
from controlplane.api.permissions import Scope as Where
from controlplane.api.repeats import check_key, claim_once
from controlplane.api.requests import one_line
from controlplane.auth.parts import AuthParts
from controlplane.auth.roles import EVERY, PUBLIC, READS_ALL, Principal
from controlplane.clock import Clock
from controlplane.controller.inspection import Inspector
from controlplane.controller.preview import Preview
from controlplane.errors import NotFoundError
from controlplane.events.feed import EventFeed
from controlplane.jobs.callback_desk import CallbackDesk
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.feed import JobFeed
from controlplane.jobs.overseer import Overseer
from controlplane.notify.desk import NotifyDesk
from controlplane.ports import Change, RolloutId, Store

Missing: TypeAlias = Callable[[], Awaitable[Sequence[str]]]
"""Say what is still missing before this process can be used, one phrase each; nothing when it is ready."""


Certificates: TypeAlias = Callable[[], Collection[str]]
"""Tells the names of the certificates that listeners may have."""


async def _nothing_missing() -> Sequence[str]:
    return ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the routes need."""

    store: Store
    clock: Clock
    auth: AuthParts
    inspector: Inspector
    desk: JobDesk
    callbacks: CallbackDesk
    feed: JobFeed
    """Tells what becomes of jobs; somebody has to run it."""
    events: EventFeed
    """Tells what happens to services and rollouts; somebody has to run it, too."""
    overseer: Overseer
    notify: NotifyDesk
    """Who is told of rollouts, and links that decide at gates."""
    missing: Missing = _nothing_missing
    """What /readyz reports."""
    public_reads: bool = False
    """Whether reading needs no key."""
    certificates: Certificates | None = None
    """Those that listeners may name; None where this process does not know."""
    preview: Preview | None = None
    """Tries declarations before they are stored; None stores what the documents' own checks let through."""
    compares_pictures: bool = True
    """Whether objectives about pictures can be kept here: the extra `quality` is installed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a change, the reason from the request's header, and the key that makes a repetition harmless."""

    name: str
    why: str
    key: str | None

    @property
    def scoped_key(self) -> str | None:
        """Return the idempotency key, unmistakable for that of another caller."""
        return None if self.key is None else f"{self.name}/{self.key}"


def parts_of(request: Request) -> Parts:
    """Return what `create_app` was given."""
    parts: Parts = request.app.state.parts
    return parts


UseParts: TypeAlias = Annotated[Parts, Depends(parts_of)]

_bearer = HTTPBearer(auto_error=False, description="An API key, `hs_...`: made with `hueshift keys create NAME`.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="The session that POST /v1/session begins.")


async def permitted_identity(
    request: Request,
    parts: UseParts,
    _key: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
    _session: Annotated[str | None, Depends(_cookie)] = None,
) -> Identity:
    """Return who asks, if the rule of the route that was found lets them; the last two are for the API's description.

    Raises:
        UnauthorizedError: Nobody who is known.
        ForbiddenError: They may not.
        HiddenError: They may not even know of it.
    """
    return await _permitted(request, parts)


async def _permitted(request: Request, parts: Parts) -> Identity:
    rule = RULES[f"{request.method} {request.scope['route'].path}"]
    identity = await _identify(request, parts, rule)
    principal = identity.principal
    request.state.principal = principal
    if rule.role is None or principal.may(rule.role, EVERY):
        refuse(principal, rule, service=EVERY)
    elif rule.scope is Where.NAME:
        refuse(principal, rule, service=request.path_params["name"])
    elif rule.scope is Where.ROLLOUT:
        rollout = request.path_params["rollout"]
        refuse(principal, rule, service=await _service_of(parts, rollout), kind="rollout", name=rollout)
    else:
        refuse(principal, rule, service=EVERY)
    return identity


async def _identify(request: Request, parts: Parts, rule: Rule) -> Identity:
    if parts.public_reads and rule.public and "authorization" not in request.headers:
        known = await recognise(request, parts.auth)
        identity = Identity(PUBLIC if known is None else known.principal)
    else:
        identity = await identify(request, parts.auth)
    if parts.public_reads and not identity.principal.sees_all:  # or they would see more if they were not known
        grants = (*identity.principal.grants, READS_ALL)
        return dataclasses.replace(identity, principal=dataclasses.replace(identity.principal, grants=grants))
    return identity


async def _service_of(parts: Parts, rollout: str) -> str:
    try:
        return (await parts.store.load(RolloutId(rollout))).service
    except NotFoundError as unknown:
        try:
            return (await parts.store.load_waiting(rollout)).service  # its rollout is still to come
        except NotFoundError:
            raise unknown from None


async def _principal(identity: Annotated[Identity, Depends(permitted_identity)]) -> Principal:
    return identity.principal


Permitted: TypeAlias = Annotated[Principal, Depends(_principal)]


async def _again(request: Request, parts: UseParts) -> Callable[[], Awaitable[Principal]]:
    async def ask() -> Principal:
        return (await _permitted(request, parts)).principal

    return ask


async def _owner(principal: Permitted) -> str:
    return principal.name


async def _caller(
    request: Request,
    parts: UseParts,
    principal: Permitted,
    idempotency_key: Annotated[
        str | None, Header(description="Send the same value when you repeat a request: it is done once.")
    ] = None,
    x_hueshift_reason: Annotated[str, Header(description="The reason, for the audit, if the body has none.")] = "",
) -> Caller:
    check_key(idempotency_key)
    caller = Caller(principal.name, one_line("X-Hueshift-Reason", x_hueshift_reason), idempotency_key)
    await claim_once(request, caller.scoped_key, store=parts.store, clock=parts.clock)
    return caller


Reader: TypeAlias = Permitted
"""Who reads, if `permissions.RULES` lets them; `roles.PUBLIC` where reading is public."""
Writer: TypeAlias = Annotated[Caller, Depends(_caller)]
"""Who changes something, if `permissions.RULES` lets them. Always needs a key."""
Owner: TypeAlias = Annotated[str, Depends(_owner)]
"""The name of whoever reads what is theirs alone; a key is always needed."""
StillAllowed: TypeAlias = Annotated[Callable[[], Awaitable[Principal]], Depends(_again)]
"""Asks again whether whoever asked may still do so, for answers that go on and on."""


def change_of(parts: Parts, caller: Caller) -> Change:
    """Say who changes something now, for the audit."""
    return Change(caller.name, caller.why, parts.clock.now())


class BodyLimit:
    """Refuses bodies over a size, whether they announce their length or not; FastAPI's own says it in plain text."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, larger: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting what it brings."""
        seen = 0
        limit = self._larger.get(scope.get("path", ""), self._max_bytes)

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(
                    413, f"the body is larger than {limit // 1024} KiB; send less"
                )  # FastAPI lets this one through while it reads a body
            return message

        await self._app(scope, counted, send)
