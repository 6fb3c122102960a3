"""What a service is like right now: the shares that its versions really get, their workers, and the Envoys it has."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from controlplane.api import units
from controlplane.api.advice import advise
from controlplane.api.answers import EnvoyView, MeasuredView, ShareView, StatusView, WorkerView
from controlplane.api.quality import newest_comparisons
from controlplane.api.views import proxy_view, share_views, status_view
from controlplane.api.waiting import waiting_views
from controlplane.controller.fleet import expected_nodes, wanted_version
from controlplane.controller.groups import GroupView, carriers, load_newest_groups, nodes_of
from controlplane.controller.inspection import Sync, kinds_of, sync_of
from controlplane.controller.line import frozen_words
from controlplane.ports import NodeStatus, Rollout, ServiceRecord, Store, TypeStatus
from controlplane.rollout.model import Baking, Paused, Promoted, RolledBack
from controlplane.traffic.model import Endpoint, Share, Split
from controlplane.traffic.provenance import ModelReport

MEASURED_OVER: Final = dt.timedelta(seconds=30)
"""How far back requests are counted for the shares that versions really get; less where the weight is younger."""

ORDER: Final = ("cds", "lds", "eds", "rds")
"""Types in the order in which Envoys get them; further ones come behind."""

WORST_FIRST: Final = (Sync.NACKED.value, Sync.STALE.value, Sync.NOT_SENT.value, Sync.SYNCED.value)

MAX_ENVOYS: Final = 100
"""Envoys that a service's page lists; `hueshift proxies` has all."""


async def load_status(store: Store, name: str, *, events: int, now: dt.datetime) -> StatusView:
    """Put everything about a service on one page, with its last *events* and what is to be said of it."""
    record = await store.load_service(name)
    rollout = await store.load_latest(name)
    groups, _who = await load_newest_groups(store, now=now)
    mine = tuple(carriers(groups, name))
    health = await store.load_health()
    models = await store.load_models([version.cluster for version in record.served.spec.versions])
    view = status_view(
        record,
        rollout,
        groups=mine,
        health=health,
        pending=await store.load_pending(rollout.id) if rollout else (),
        events=await store.history(name, limit=events) if events else (),
        models=models,
        now=now,
    )
    aside = _aside(record, rollout, view.split)
    shown = [*view.split, *share_views(record, aside, nodes_of(mine, now=now), health)]
    sums, seconds = await measured_requests(store, record, rollout, now=now)
    agenda = await store.load_agenda(since=now)
    live = with_live(shown, record, sums, models)
    whole = view.model_copy(
        update={
            "quality": await newest_comparisons(store, rollout),
            "split": live[: len(view.split)],
            "aside": live[len(view.split) :],
            "measured_s": seconds,
            "waiting": waiting_views(agenda, rollout, name, now=now),
            "frozen": frozen_words(agenda.freezes, name, now=now),
            "envoys": envoy_views(mine, now=now),
        }
    )
    return whole.model_copy(update={"advice": advise(whole)})


async def measured_requests(
    store: Store, record: ServiceRecord, rollout: Rollout | None, *, now: dt.datetime
) -> tuple[Mapping[str, int], int]:
    """Return how many requests were sent to each cluster at the present weights, and in how many seconds.

    Counted when they start: a version that hangs has requests, and no answers.
    """
    clusters = tuple(dict.fromkeys(version.cluster for version in record.served.spec.versions))
    begin = max(now - MEASURED_OVER, _weight_since(rollout) or now - MEASURED_OVER)
    ticks = await store.load_ticks(clusters, after=int(begin.timestamp()))
    sums = dict.fromkeys(clusters, 0)
    for tick in ticks:
        for cluster, counts in tick.counts.items():
            sums[cluster] += counts.started
    return sums, len(ticks)


def with_live(
    shares: Sequence[ShareView], record: ServiceRecord, sums: Mapping[str, int], models: Sequence[ModelReport]
) -> list[ShareView]:
    """Return *shares* with what was measured of each, and its workers."""
    total = sum(sums[share.cluster] for share in shares)
    return [
        share.model_copy(
            update={
                "measured": _measured(sums[share.cluster], total),
                "workers": _workers(share, record, models),
            }
        )
        for share in shares
    ]


def envoy_views(groups: Sequence[GroupView], *, now: dt.datetime) -> list[EnvoyView]:
    """Show the Envoys of *groups*, those first that need a look, at most `MAX_ENVOYS` of them."""
    known: dict[tuple[int, str], str] = {}
    found = []
    for group in groups:
        for node in expected_nodes(group.nodes, now=now):
            # Nodes in step share one object of what they said, so that a large fleet is a few comparisons.
            key = (id(node.types), group.key)
            if key not in known:
                known[key] = _worst(node, group)
            found.append((WORST_FIRST.index(known[key]), node.node, node, group))
    found.sort(key=lambda each: each[:2])
    return [_envoy_view(node, group, WORST_FIRST[rank], now) for rank, _, node, group in found[:MAX_ENVOYS]]


def _aside(record: ServiceRecord, rollout: Rollout | None, split: Sequence[ShareView]) -> Split:
    """Return the versions without a share that are looked at all the same: of *rollout*, or with a pinned model."""
    shown = {share.version for share in split}
    wanted = {rollout.baseline, rollout.candidate} if rollout else set()
    return tuple(
        Share(version.name, 0)
        for version in record.served.spec.versions
        if version.name not in shown and (version.name in wanted or version.model is not None)
    )


def _weight_since(rollout: Rollout | None) -> dt.datetime | None:
    match rollout and rollout.state:
        case Baking(since=since) | Paused(since=since):
            return since
        case Promoted(at=at) | RolledBack(at=at):
            return at
        case _:
            return None


def _measured(requests: int, total: int) -> MeasuredView | None:
    if not total:
        return None
    share_bp = round(requests * 10_000 / total)
    return MeasuredView(share=units.format_weight(share_bp), share_bp=share_bp, requests=requests)


def _workers(share: ShareView, record: ServiceRecord, models: Sequence[ModelReport]) -> list[WorkerView]:
    """Show a version's workers; Envoys count the healthy ones and name none, so only all or nothing says which."""
    spec = record.served.spec.version(share.version)
    known = {report.address: report for report in models if report.cluster == share.cluster}
    healthy = None
    if share.total and share.healthy in {0, share.total}:
        healthy = share.healthy == share.total
    # Workers that were asked are known by address; the names of others are all that is known of them.
    named = [_address(endpoint) for endpoint in spec.endpoints if endpoint.is_address or not known]
    addresses = dict.fromkeys([*named, *known])
    return [
        WorkerView(
            address=address,
            healthy=healthy,
            words=known[address].words if address in known else "",
            models=[model.name for model in known[address].models] if address in known else [],
        )
        for address in addresses
    ]


def _address(endpoint: Endpoint) -> str:
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


def _worst(node: NodeStatus, group: GroupView) -> str:
    """Return the worst state of the types that an Envoy has or should have."""
    wanted = group.snapshot.versions if group.snapshot else {}
    states = set()
    for kind in kinds_of(node, wanted):
        status = node.types.get(kind, TypeStatus())
        version = wanted_version(wanted, kind, status.sent)
        if status.sent or version:
            states.add(sync_of(status, version).value)
    return next((name for name in WORST_FIRST if name in states), Sync.NOT_SENT.value)


def _envoy_view(node: NodeStatus, group: GroupView, status: str, now: dt.datetime) -> EnvoyView:
    types = proxy_view(node, group.snapshot, now=now).types
    worst = [each for each in types if (each.sent or each.wanted) and each.status == status]
    ages = [each.age_s for each in worst if each.age_s is not None]
    synced = status == Sync.SYNCED
    return EnvoyView(
        node=node.node,
        connected=node.disconnected_at is None,
        status=status,
        age_s=min(ages, default=None) if synced else max(ages, default=None),
        behind=sorted((each.type for each in worst if not synced), key=_place),
        words=next((f"{each.type.upper()}: {each.words}" for each in worst if each.words), ""),
    )


def _place(kind: str) -> tuple[int, str]:
    return ORDER.index(kind) if kind in ORDER else len(ORDER), kind
