"""The fleet: every Envoy, and what it made of the newest snapshot."""

from fastapi import APIRouter

from controlplane.api.access import Reader, UseParts
from controlplane.api.answers import ProxyView
from controlplane.api.views import proxy_view

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/proxies")
async def list_proxies(parts: UseParts, _: Reader) -> list[ProxyView]:
    """List every Envoy ever seen: per resource type SYNCED, STALE, NACKED or NEVER SENT."""
    snapshot = await parts.store.load_newest_snapshot()
    wanted = snapshot.versions if snapshot else {}
    now = parts.clock.now()
    nodes = sorted(await parts.store.load_nodes(), key=lambda node: (node.disconnected_at is not None, node.node))
    return [proxy_view(node, wanted, now=now) for node in nodes]
