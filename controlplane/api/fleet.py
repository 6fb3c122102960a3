"""The fleet: every Envoy, and what it made of the newest snapshot."""

from fastapi import APIRouter

from controlplane.api.access import Reader, UseParts
from controlplane.api.answers import ProxyView
from controlplane.api.views import proxy_view
from controlplane.controller.groups import load_newest_groups

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/proxies")
async def list_proxies(parts: UseParts, _: Reader) -> list[ProxyView]:
    """List every Envoy ever seen: per resource type SYNCED, STALE, NACKED or NEVER SENT."""
    now = parts.clock.now()
    _groups, who = await load_newest_groups(parts.store, now=now)
    nodes = sorted(await parts.store.load_nodes(), key=lambda node: (node.disconnected_at is not None, node.node))
    keys = [who.of(node.node, node.group) for node in nodes]
    newest = {key: await parts.store.load_newest_snapshot(key) for key in dict.fromkeys(keys)}
    wanted = {key: snapshot.versions for key, snapshot in newest.items() if snapshot is not None}
    return [proxy_view(node, wanted.get(key, {}), now=now) for node, key in zip(nodes, keys, strict=True)]
