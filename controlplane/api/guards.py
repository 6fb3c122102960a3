"""What a person may not ask for because it could only hurt: traffic to a version that is not there, or not itself."""

from collections.abc import Sequence

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.ports import ClusterHealth, NodeStatus
from controlplane.rollout.past import Failure
from controlplane.traffic.model import Version
from controlplane.traffic.provenance import ModelReport, deviations


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


def refuse_failed_version(failure: Failure | None, *, again: bool) -> None:
    """Refuse a start of a version that failed when it was tried last, unless *again* says that it is known.

    Raises:
        ConflictError: It failed; the text names the rollout and the evidence.
    """
    if failure is not None and not again:
        raise ConflictError(f"{failure.words}; start it with --again (again: true) if it is to run all the same")


def refuse_other_model(version: Version, reports: Sequence[ModelReport]) -> None:
    """Refuse a rollout to *version* while one of its workers serves another model than it pins.

    One that has not said what it serves is no proof: the rollout waits for it, `Preparing`.

    Raises:
        ConflictError: A worker serves something else.
    """
    others = deviations(version, reports)
    if others:
        raise ConflictError(
            f"{'; '.join(others)}: give the worker the pinned model, or correct versions.{version.name}.model and apply"
        )
