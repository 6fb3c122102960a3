"""Callbacks: whom an owner wants told of the ends of their jobs. Nobody sees another's, whatever is public."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Response, status

from controlplane.api.access import Owner, UseParts, Writer
from controlplane.api.callback_schemas import (
    CallbackAppliedView,
    CallbackDocument,
    CallbackSecretView,
    CallbackTestView,
    CallbackView,
    callback_view,
)
from controlplane.api.routing import ApiRoute, answers_secret
from controlplane.api.tags import Conditions, digest_of, set_state
from controlplane.courier.model import Unheard
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.jobs.callbacks import Callback
from controlplane.jobs.expected import Expected

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/job-callbacks", tags=["jobs"], route_class=ApiRoute)

Name = Annotated[str, Path(description="Its name.", max_length=40)]


@router.get("")
async def list_callbacks(parts: UseParts, owner: Owner) -> list[CallbackView]:
    """List your callbacks, by name."""
    return [callback_view(each) for each in await parts.callbacks.store.list_callbacks(owner)]


@router.get("/{callback}")
async def show_callback(callback: Name, response: Response, parts: UseParts, owner: Owner) -> CallbackView:
    """Show one of your callbacks."""
    known = {each.name: each for each in await parts.callbacks.store.list_callbacks(owner)}
    if callback not in known:
        raise NotFoundError("callback", callback, tuple(known))
    set_state(response, _state(known[callback]))
    return callback_view(known[callback])


@router.put("/{callback}")
@answers_secret
async def apply_callback(
    callback: Name,
    document: CallbackDocument,
    response: Response,
    parts: UseParts,
    caller: Writer,
    conditions: Conditions,
) -> CallbackAppliedView:
    """Make the document what its name means to you. A secret that is made for it is in this answer only."""
    if document.callback != callback:
        raise InvalidInputError(
            "callback", f"{document.callback[:40]!r} is not the {callback!r} of the path", f"write callback: {callback}"
        )
    desk, expected = parts.callbacks, None
    if not conditions.are_none:
        listed = await desk.store.list_callbacks(caller.name)
        found = next((each for each in listed if each.name == callback), None)
        conditions.check(None if found is None else _state(found), what=f"callback {callback!r}")
        expected = Expected(found)
    changed, secret = await desk.apply(
        caller.name, callback, document.address, document.ends, secret=document.secret, expected=expected
    )
    meant = Callback(owner=caller.name, name=callback, address=document.address, events=document.ends)
    set_state(response, _state(meant))
    if changed:
        log.info("job_callback.applied", callback=callback, by=caller.name)
    words = f"{callback} is {'applied' if changed else 'unchanged'}"
    return CallbackAppliedView(callback=callback, changed=changed, secret=secret, words=words)


def _state(callback: Callback) -> str:
    """Name what a callback is; its secret has no part in that."""
    events = sorted(event.value for event in callback.events)
    return digest_of(CallbackDocument(callback=callback.name, address=callback.address, events=events))


@router.post("/{callback}/secret")
@answers_secret
async def renew_secret(callback: Name, parts: UseParts, caller: Writer) -> CallbackSecretView:
    """Make a new secret, which is in this answer and in no other. The one before signs, too, for a day."""
    secret = await parts.callbacks.renew_secret(caller.name, callback)
    log.info("job_callback.secret_renewed", callback=callback, by=caller.name)
    return CallbackSecretView(callback=callback, secret=secret)


@router.post("/{callback}/test")
async def test_callback(callback: Name, parts: UseParts, caller: Writer) -> CallbackTestView:
    """Send a callback a message that is of no job, now, and say what came of it."""
    outcome = await parts.callbacks.test(caller.name, callback)
    words = outcome.words if isinstance(outcome, Unheard) else "delivered"
    return CallbackTestView(callback=callback, delivered=not isinstance(outcome, Unheard), words=words)


@router.delete("/{callback}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_callback(callback: Name, parts: UseParts, caller: Writer) -> None:
    """Forget a callback; what was not delivered to it yet is given up."""
    await parts.callbacks.store.delete_callback(caller.name, callback)
    log.info("job_callback.deleted", callback=callback, by=caller.name)
