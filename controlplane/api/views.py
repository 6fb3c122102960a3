"""What the API answers with: rows turned into what engineers and their scripts read. Pure."""

import datetime as dt
import json
from collections.abc import Collection, Sequence
from typing import Any, Literal

from controlplane.api import units
from controlplane.api.answers import (
    AcksView,
    EventView,
    ProvenanceView,
    RevisionView,
    RolloutView,
    ServiceView,
    ShareView,
    StatusView,
    SummaryView,
    WorkerModelView,
)
from controlplane.api.documents import document_of, plan_of
from controlplane.api.fleet_answers import (
    HealthView,
    ProxyConfigView,
    ProxyView,
    RefusalView,
    ResourceView,
    TypeConfigView,
    TypeView,
)
from controlplane.api.objectives import describe_slo
from controlplane.controller.desired import live_split
from controlplane.controller.fleet import wanted_version
from controlplane.controller.groups import GroupView, level_of, nodes_of
from controlplane.controller.inspection import (
    HeldResource,
    NodeConfig,
    Sync,
    is_in_sync,
    kinds_of,
    since,
    sync_of,
)
from controlplane.ports import (
    ClusterHealth,
    ConfigReader,
    DesiredService,
    HistoryEntry,
    NodeStatus,
    PastRefusal,
    PendingCommand,
    Revision,
    Rollout,
    ServiceRecord,
    SnapshotRecord,
    TypeStatus,
)
from controlplane.rollout.lifecycle import describe, state_name, weight_bp
from controlplane.rollout.model import (
    Baking,
    Paused,
    Plan,
    Preparing,
    Promoted,
    RolledBack,
    RollingBack,
    Shifting,
    State,
    is_final,
)
from controlplane.rollout.slo import with_defaults
from controlplane.traffic.model import ModelPin, Split
from controlplane.traffic.provenance import ModelReport, deviations, matches

# -- rows -> views -----------------------------------------------------------------------------------------------------


def revision_view(revision: Revision) -> RevisionView:
    """Show a revision."""
    return RevisionView(
        number=revision.number,
        status=revision.status.value,
        words=revision.words,
        by=revision.by,
        why=revision.why,
        at=revision.at,
    )


def share_views(
    record: ServiceRecord, split: Split, nodes: Sequence[NodeStatus], health: Sequence[ClusterHealth]
) -> list[ShareView]:
    """Show a split with the health of its workers; where Envoys disagree, the least healthy view counts."""
    connected = {node.node for node in nodes if node.disconnected_at is None}
    shares = []
    for share in split:
        cluster = record.served.spec.version(share.version).cluster
        rows = [row for row in health if row.cluster == cluster and row.node in connected]
        worst = min(rows, key=lambda row: row.healthy, default=None)
        shares.append(
            ShareView(
                version=share.version,
                cluster=cluster,
                weight=units.format_weight(share.weight_bp),
                weight_bp=share.weight_bp,
                healthy=worst.healthy if worst else None,
                total=worst.total if worst else None,
            )
        )
    return shares


def provenance_views(record: ServiceRecord, reports: Sequence[ModelReport]) -> list[ProvenanceView]:
    """Show the versions that pin their model, and what their workers say that they serve."""
    return [
        ProvenanceView(
            version=version.name,
            model=pin.name,
            checksum=pin.checksum,
            code_version=pin.code_version,
            workers=[_worker_view(pin, report) for report in reports if report.cluster == version.cluster],
            deviations=list(deviations(version, reports)),
        )
        for version in record.served.spec.versions
        if (pin := version.model) is not None
    ]


def _worker_view(pin: ModelPin, report: ModelReport) -> WorkerModelView:
    return WorkerModelView(
        address=report.address,
        models=[model.name for model in report.models],
        checksums=[model.checksum for model in report.models],
        code_version=report.code_version,
        matches=matches(pin, report),
        at=report.at,
        words=report.words,
    )


def split_now(record: ServiceRecord, rollout: Rollout | None) -> Split:
    """Return the split that is asked for now, a rollout's weight included."""
    active = rollout if rollout and not is_final(rollout.state) else None
    return live_split(DesiredService(record.served, record.split, active))


def listener_text(record: ServiceRecord) -> str:
    """Say where Envoy listens for the service."""
    listener = record.served.spec.listener
    host = f"[{listener.address}]" if ":" in listener.address else listener.address
    return f"{host}:{listener.port}"


def service_view(
    record: ServiceRecord, rollout: Rollout | None, nodes: Sequence[NodeStatus], health: Sequence[ClusterHealth]
) -> ServiceView:
    """Show a service."""
    return ServiceView(
        name=record.name,
        document=document_of(record.newest.spec),
        revision=revision_view(record.newest),
        served_revision=record.served.number,
        split=share_views(record, split_now(record, rollout), nodes, health),
    )


def summary_view(
    record: ServiceRecord, rollout: Rollout | None, nodes: Sequence[NodeStatus], health: Sequence[ClusterHealth]
) -> SummaryView:
    """Show a service in one line."""
    return SummaryView(
        name=record.name,
        listener=listener_text(record),
        split=share_views(record, split_now(record, rollout), nodes, health),
        revision=record.newest.number,
        revision_status=record.newest.status.value,
        rollout=rollout_view(rollout) if rollout else None,
    )


def status_view(
    record: ServiceRecord,
    rollout: Rollout | None,
    *,
    groups: Sequence[GroupView],
    health: Sequence[ClusterHealth],
    pending: Sequence[PendingCommand],
    events: Sequence[HistoryEntry],
    models: Sequence[ModelReport],
    now: dt.datetime,
) -> StatusView:
    """Show everything about a service, which the Envoys of *groups* serve, and whose workers report *models*."""
    nodes = nodes_of(groups, now=now)
    rejected = record.newest if record.newest.number != record.served.number else None
    return StatusView(
        service=record.name,
        listener=listener_text(record),
        split=share_views(record, split_now(record, rollout), nodes, health),
        revision=revision_view(record.served),
        rejected=revision_view(rejected) if rejected else None,
        rollout=rollout_view(rollout) if rollout else None,
        acks=acks_view(groups, now=now),
        commands_waiting=len(pending),
        events=[event_view(event) for event in events],
        models=provenance_views(record, models),
    )


def acks_view(groups: Sequence[GroupView], *, now: dt.datetime) -> AcksView:
    """Count the Envoys that run the newest snapshot of their group."""
    level = level_of(groups)
    if all(group.snapshot is None for group in groups):
        words = "nothing is served yet"
    else:
        words = f"{level.acked}/{level.expected} ACKed" if level.expected else "no Envoy is connected"
    # An Envoy may have refused a snapshot that is no longer the newest one to be served: its words still count.
    refusals = [
        f"{node.node} refused {kind.upper()}: {status.words}"
        for node in nodes_of(groups, now=now)
        for kind, status in sorted(node.types.items())
        if status.nacked and status.nacked == status.sent and status.nacked != status.acked
    ]
    refusals += [str(refusal) for refusal in level.refusals if str(refusal) not in refusals]
    return AcksView(
        acked=level.acked, expected=level.expected, words=words, waiting=list(level.waiting), refusals=refusals
    )


def rollout_view(rollout: Rollout) -> RolloutView:
    """Show a rollout."""
    state = rollout.state
    candidate_bp = weight_bp(rollout.plan, state) or 0
    return RolloutView(
        id=rollout.id,
        service=rollout.service,
        baseline=rollout.baseline,
        candidate=rollout.candidate,
        state=state_name(state),
        phase=describe(state),
        active=not is_final(state),
        outcome=_outcome(state),
        cause=state.cause.value if isinstance(state, Paused | RollingBack | RolledBack) else None,
        words=state.words if isinstance(state, Paused | RollingBack | Promoted | RolledBack) else "",
        step=_step(rollout.plan, state),
        steps=len(rollout.plan.steps),
        weight=units.format_weight(candidate_bp),
        weight_bp=candidate_bp,
        since=state.at if isinstance(state, Promoted | RolledBack) else state.since,
        started_at=rollout.started_at,
        deadline_at=rollout.deadline_at,
        ended_at=state.at if isinstance(state, Promoted | RolledBack) else None,
        by=rollout.by,
        why=rollout.why,
        plan=plan_of(rollout.plan),
        objectives=[describe_slo(slo) for slo in with_defaults(rollout.slos)],
        evidence=_evidence(rollout.evidence),
        undoes=rollout.plan.direct,
    )


def event_view(entry: HistoryEntry) -> EventView:
    """Show an entry of the history."""
    return EventView(
        number=entry.number,
        at=entry.at,
        kind=entry.kind,
        rollout=entry.rollout,
        what=entry.what,
        by=entry.by,
        words=entry.words,
        before=entry.before,
        after=entry.after,
    )


def proxy_view(node: NodeStatus, snapshot: SnapshotRecord | None, *, now: dt.datetime) -> ProxyView:
    """Show one Envoy against *snapshot*, which it should run."""
    wanted = snapshot.versions if snapshot else {}
    begun = node.disconnected_at or node.connected_at
    return ProxyView(
        node=node.node,
        cluster=node.cluster,
        group=node.group,
        served_group=snapshot.group if snapshot else None,
        user_agent=node.user_agent,
        replica=node.replica,
        variant=node.variant,
        connected=node.disconnected_at is None,
        since=begun,
        age_s=(now - begun).total_seconds(),
        synced=is_in_sync(node, wanted),
        types=[_type_view(kind, node, snapshot, now) for kind in kinds_of(node, wanted)],
    )


def proxy_config_view(
    config: NodeConfig,
    health: Sequence[ClusterHealth],
    reader: ConfigReader,
    kinds: Collection[str],
    *,
    now: dt.datetime,
) -> ProxyConfigView:
    """Show what one Envoy runs; of the types *kinds* only, unless there are none."""
    node = config.node
    return ProxyConfigView(
        proxy=proxy_view(node, config.snapshot, now=now),
        types=[
            TypeConfigView(
                **_type_view(each.kind, node, config.snapshot, now).model_dump(),
                lost=each.lost,
                resources=[_resource_view(held, reader) for held in each.resources],
            )
            for each in config.types
            if not kinds or each.kind in kinds
        ],
        health=[
            HealthView(cluster=row.cluster, healthy=row.healthy, total=row.total)
            for row in health
            if row.node == node.node
        ],
    )


def _resource_view(held: HeldResource, reader: ConfigReader) -> ResourceView:
    runs, wanted = held.runs, held.wanted
    return ResourceView(
        name=held.name,
        status=held.sync.value,
        version=runs.version if runs else "",
        wanted=wanted.version if wanted else "",
        resource=dict(reader.document(runs)) if runs else None,
        wanted_resource=dict(reader.document(wanted)) if wanted and held.sync is not Sync.SYNCED else None,
    )


def _type_view(kind: str, node: NodeStatus, snapshot: SnapshotRecord | None, now: dt.datetime) -> TypeView:
    status = node.types.get(kind, TypeStatus())
    wanted = wanted_version(snapshot.versions, kind, status.sent) if snapshot else ""
    sync = sync_of(status, wanted)
    return TypeView(
        type=kind,
        status=sync.value,
        age_s=(now - since(status, sync, node, snapshot)).total_seconds() if status.sent or wanted else None,
        sent=status.sent,
        acked=status.acked,
        wanted=wanted,
        words=status.words if sync is Sync.NACKED else "",
        last_refusal=_refusal_view(status.last_refusal, now) if status.last_refusal else None,
    )


def _refusal_view(refusal: PastRefusal, now: dt.datetime) -> RefusalView:
    return RefusalView(version=refusal.version, words=refusal.words, age_s=(now - refusal.at).total_seconds())


def _outcome(state: State) -> Literal["promoted", "rolled_back"] | None:
    match state:
        case Promoted():
            return "promoted"
        case RolledBack():
            return "rolled_back"
        case _:
            return None


def _step(plan: Plan, state: State) -> int:
    match state:
        case Shifting(step=step) | Baking(step=step) | Paused(step=step):
            return step + 1
        case Promoted():
            return len(plan.steps)
        case Preparing() | RollingBack() | RolledBack():
            return 0


def _evidence(text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    found = json.loads(text)
    return found if isinstance(found, dict) else {"evidence": found}
