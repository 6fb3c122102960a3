"""The fleet: every Envoy, what it made of the newest snapshot, and what it runs."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from controlplane.api.access import Parts, Reader, UseParts
from controlplane.api.fleet_answers import ProxyConfigView, ProxyView
from controlplane.api.paging import Cursor, Page, cut, read_cursor, write_cursor
from controlplane.api.routing import ApiRoute
from controlplane.api.views import proxy_config_view, proxy_view
from controlplane.controller.inspection import Sync, kinds_of
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.ports import NodeStatus

router = APIRouter(prefix="/v1/proxies", tags=["fleet"], route_class=ApiRoute)

MAX_NAMED = 20
"""Envoys that are named when another one is asked for."""

Node = Annotated[str, Path(description="The Envoy's node id.", max_length=256)]


class ProxyPage(Page[ProxyView]):
    """Envoys, those that are connected first."""


@router.get("")
async def list_proxies(
    parts: UseParts,
    _: Reader,
    state: Annotated[
        Sync | None, Query(description="Only Envoys that are like this with at least one type that they should run.")
    ] = None,
    group: Annotated[str | None, Query(description="Only Envoys that belong to this group.", max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    cursor: Cursor = None,
) -> ProxyPage:
    """List every Envoy ever seen, the connected ones first: per resource type SYNCED, STALE, NACKED or NOT SENT."""
    place = read_cursor(cursor, "proxies")
    nodes = sorted(await parts.store.load_nodes(), key=_place)
    left = [node for node in nodes if group in {None, node.group} and (place is None or _place(node) > place)]
    # Only the state is not to be had without a look at what each should run.
    asked = left if state is not None else left[: limit + 1]
    wanted = await parts.inspector.wanted(asked)
    now = parts.clock.now()
    views = [(node, proxy_view(node, wanted.get(node.node), now=now)) for node in asked]
    page, last = cut([each for each in views if state is None or _has(each[1], state)], limit)
    return ProxyPage(
        items=[view for _, view in page], next=None if last is None else write_cursor("proxies", _place(last[0]))
    )


def _place(node: NodeStatus) -> str:
    return f"{int(node.disconnected_at is not None)}/{node.node}"


@router.get("/{node:path}/resources")
async def show_resources(
    node: Node,
    parts: UseParts,
    _: Reader,
    types: Annotated[
        list[str] | None, Query(alias="type", description="Only these types: cds, eds, lds, rds; may be repeated.")
    ] = None,
) -> ProxyConfigView:
    """Show what one Envoy runs, resource by resource, and what it should run where that differs."""
    found = await _find(parts, node)
    (config,) = await parts.inspector.inspect([found])
    known = kinds_of(found, config.snapshot.versions if config.snapshot else ())
    for name in types or ():
        if name not in known:
            raise InvalidInputError("type", f"{name!r} is not known", f"use {', '.join(known)}")
    return proxy_config_view(
        config, await parts.store.load_health(), parts.inspector.reader, types or (), now=parts.clock.now()
    )


@router.get("/{node:path}")
async def show_proxy(node: Node, parts: UseParts, _: Reader) -> ProxyView:
    """Show one Envoy as the list does."""
    found = await _find(parts, node)
    wanted = await parts.inspector.wanted([found])
    return proxy_view(found, wanted.get(node), now=parts.clock.now())


async def _find(parts: Parts, node: str) -> NodeStatus:
    nodes = await parts.store.load_nodes()
    for found in nodes:
        if found.node == node:
            return found
    raise NotFoundError("Envoy", node, tuple(found.node for found in nodes[:MAX_NAMED]))


def _has(view: ProxyView, state: Sync) -> bool:
    return any(kind.status == state and (kind.wanted or kind.sent) for kind in view.types)
