"""Messages about rollouts: who is told of what, how far that is, and what is told again. For a service's admins."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, status

from controlplane.api.access import Reader, UseParts, Writer, change_of
from controlplane.api.notify_schemas import (
    DeliveryPage,
    TargetAppliedView,
    TargetDocument,
    TargetPage,
    TargetSecretView,
    TargetTestView,
    delivery_view,
    target_view,
)
from controlplane.api.paging import Cursor, cut, cut_by_name, read_number, write_cursor
from controlplane.api.routing import ApiRoute, answers_secret
from controlplane.auth.roles import Role
from controlplane.courier.model import Unheard
from controlplane.notify.model import EVERY

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/notifications", tags=["notifications"], route_class=ApiRoute)

MAX_LISTED = 200

Name = Annotated[str, Path(description="The service's name, or * for all services.", max_length=63)]
Which = Annotated[str, Path(description="The target's name.", max_length=63)]
Number = Annotated[int, Path(description="The delivery's number.", ge=1, lt=2**63)]


@router.get("")
async def list_targets(
    parts: UseParts, principal: Reader, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100, cursor: Cursor = None
) -> TargetPage:
    """List the targets of the services whose admin you are, by service and name."""
    found = [each for each in await parts.notify.store.list_targets() if principal.may(Role.ADMIN, each.service)]
    page, following = cut_by_name(found, lambda each: each.key, of="targets", cursor=cursor, limit=limit)
    return TargetPage(items=[target_view(each) for each in page], next=following)


@router.put("/{name}/{target}")
@answers_secret
async def apply_target(
    name: Name, target: Which, document: TargetDocument, parts: UseParts, caller: Writer
) -> TargetAppliedView:
    """Make the document what the target's name means. A secret that is made for it is in this answer only.

    It is told what happens from now on.
    """
    meant = document.target(name, target)
    if name != EVERY:
        await parts.store.load_service(name)
    changed, secret = await parts.notify.apply(meant, change_of(parts, caller), secret=document.secret)
    if changed:
        log.info("notify_target.applied", target=meant.key, by=caller.name)
    words = f"{meant.key} is {'applied' if changed else 'unchanged'}"
    return TargetAppliedView(service=name, target=target, changed=changed, secret=secret, words=words)


@router.delete("/{name}/{target}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_target(name: Name, target: Which, parts: UseParts, caller: Writer) -> None:
    """Forget a target; what it was not told yet it is not told, and its links open nothing any more."""
    await parts.notify.store.delete_target(name, target, change_of(parts, caller))
    log.info("notify_target.deleted", target=f"{name}/{target}", by=caller.name)


@router.post("/{name}/{target}/secret")
@answers_secret
async def renew_target_secret(name: Name, target: Which, parts: UseParts, caller: Writer) -> TargetSecretView:
    """Make a new secret, which is in this answer and in no other. The one before signs, too, for a day."""
    secret = await parts.notify.renew_secret(name, target, change_of(parts, caller))
    log.info("notify_target.secret_renewed", target=f"{name}/{target}", by=caller.name)
    return TargetSecretView(service=name, target=target, secret=secret)


@router.post("/{name}/{target}/test")
async def check_target(name: Name, target: Which, parts: UseParts, caller: Writer) -> TargetTestView:
    """Send a target a message that is of no rollout, now, and say what came of it."""
    outcome = await parts.notify.test(name, target, by=caller.name)
    heard = not isinstance(outcome, Unheard)
    words = "delivered" if not isinstance(outcome, Unheard) else outcome.words
    return TargetTestView(target=f"{name}/{target}", delivered=heard, words=words)


@router.get("/{name}/{target}/deliveries")
async def list_deliveries(
    name: Name,
    target: Which,
    parts: UseParts,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
    cursor: Cursor = None,
) -> DeliveryPage:
    """List what a target was or is to be told, newest first; what was told is listed for 30 days."""
    before = read_number(cursor, "deliveries")
    found = await parts.notify.store.list_deliveries(name, target, before=before, limit=limit + 1)
    page, last = cut(found, limit)
    return DeliveryPage(
        items=[delivery_view(each) for each in page],
        next=None if last is None else write_cursor("deliveries", str(last.number)),
    )


@router.post("/{name}/{target}/deliveries/{number}/replay", status_code=status.HTTP_202_ACCEPTED)
async def replay_delivery(name: Name, target: Which, number: Number, parts: UseParts, caller: Writer) -> TargetTestView:
    """Tell it again, however often it was told; it keeps its event id, by which programs know it."""
    await parts.notify.store.replay_delivery(name, target, number, now=parts.clock.now())
    log.info("notify_target.replayed", target=f"{name}/{target}", number=number, by=caller.name)
    return TargetTestView(target=f"{name}/{target}", delivered=False, words=f"delivery {number} is told again")
