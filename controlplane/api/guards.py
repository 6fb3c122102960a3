"""What a person may not ask for because it could only hurt: traffic to a version that nobody can reach."""

from collections.abc import Sequence

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.ports import ClusterHealth, NodeStatus
from controlplane.traffic.model import Version


def refuse_dead_version(version: Version, nodes: Sequence[NodeStatus], health: Sequence[ClusterHealth]) -> None:
    """Refuse traffic to *version* when it has no worker, or when no connected Envoy finds one of them healthy.

    An Envoy that has not reported on the version yet is no proof: a rollout waits for it, `Preparing`.

    Raises:
        InvalidInputError: The version names no endpoint.
        ConflictError: Every Envoy that reports finds none of its workers healthy.
    """
    if not version.endpoints:
        raise InvalidInputError(
            f"versions.{version.name}.endpoints", "is empty", "add an endpoint, host:port, and apply the service again"
        )
    connected = {node.node for node in nodes if node.disconnected_at is None}
    rows = [row for row in health if row.cluster == version.cluster and row.node in connected]
    if not rows or any(row.healthy > 0 for row in rows):
        return
    total = max(row.total for row in rows)
    raise ConflictError(
        f"version {version.name} (cluster {version.cluster}): 0 of {total} workers healthy; "
        f"start the workers or check health_check.path ({version.health_check.path})"
    )
