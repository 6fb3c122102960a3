"""Callbacks: whom an owner wants told of the ends of their jobs. Nobody sees another's, whatever is public."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, status

from controlplane.api.access import Owner, UseParts, Writer
from controlplane.api.callback_schemas import (
    CallbackAppliedView,
    CallbackDocument,
    CallbackSecretView,
    CallbackTestView,
    CallbackView,
    callback_view,
)
from controlplane.api.repeats import RepeatableRoute
from controlplane.errors import InvalidInputError
from controlplane.jobs.callbacks import Unheard

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/job-callbacks", tags=["jobs"], route_class=RepeatableRoute)

Name = Annotated[str, Path(description="Its name.", max_length=40)]


@router.get("")
async def list_callbacks(parts: UseParts, owner: Owner) -> list[CallbackView]:
    """List your callbacks, by name."""
    return [callback_view(each) for each in await parts.callbacks.store.list_callbacks(owner)]


@router.put("/{callback}")
async def apply_callback(
    callback: Name, document: CallbackDocument, parts: UseParts, caller: Writer
) -> CallbackAppliedView:
    """Make the document what its name means to you. A secret that is made for it is in this answer only."""
    if document.callback != callback:
        raise InvalidInputError(
            "callback", f"{document.callback[:40]!r} is not the {callback!r} of the path", f"write callback: {callback}"
        )
    changed, secret = await parts.callbacks.apply(
        caller.name, callback, document.address, document.ends, secret=document.secret
    )
    if changed:
        log.info("job_callback.applied", callback=callback, by=caller.name)
    words = f"{callback} is {'applied' if changed else 'unchanged'}"
    return CallbackAppliedView(callback=callback, changed=changed, secret=secret, words=words)


@router.post("/{callback}/secret")
async def renew_secret(callback: Name, parts: UseParts, caller: Writer) -> CallbackSecretView:
    """Make a new secret, which is in this answer and in no other. The one before signs, too, for a day."""
    secret = await parts.callbacks.renew_secret(caller.name, callback)
    log.info("job_callback.secret_renewed", callback=callback, by=caller.name)
    return CallbackSecretView(callback=callback, secret=secret)


@router.post("/{callback}/test")
async def check_callback(callback: Name, parts: UseParts, caller: Writer) -> CallbackTestView:
    """Send a callback a message that is of no job, now, and say what came of it."""
    outcome = await parts.callbacks.test(caller.name, callback)
    words = outcome.words if isinstance(outcome, Unheard) else "delivered"
    return CallbackTestView(callback=callback, delivered=not isinstance(outcome, Unheard), words=words)


@router.delete("/{callback}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_callback(callback: Name, parts: UseParts, caller: Writer) -> None:
    """Forget a callback; what was not delivered to it yet is given up."""
    await parts.callbacks.store.delete_callback(caller.name, callback)
    log.info("job_callback.deleted", callback=callback, by=caller.name)
