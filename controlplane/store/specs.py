"""Between a `ServiceSpec` and the rows of its revision."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.ports import Revision, RevisionStatus
from controlplane.rollout.model import Plan, Step
from controlplane.store import tables
from controlplane.store.codec import gate_from_json, gate_to_json, slo_from_json, slo_to_json
from controlplane.traffic.model import (
    Endpoint,
    HeaderMatch,
    HeaderRule,
    HealthCheck,
    Listener,
    Mirror,
    ModelPin,
    Route,
    RouteMatch,
    ServiceSpec,
    Share,
    Version,
)

Rows = list[dict[str, Any]]

CACHED_SPECS: Final = 2048
"""Four for each of 500 services, at some ten KiB each: fewer than there are would be read anew at every turn."""


class SpecCache:
    """Specs read from committed revisions. Those never change, so the projector need not join seven tables per turn."""

    def __init__(self) -> None:
        self._specs: dict[tuple[str, int], ServiceSpec] = {}
        self._lock = threading.Lock()

    def load(self, conn: sa.Connection, revision: sa.Row[Any]) -> ServiceSpec:
        """Return the spec of a row of ``service_revision`` that some earlier transaction committed."""
        known = self._specs.get((revision.service, revision.number))
        return self.load_all(conn, (revision,))[0] if known is None else known

    def load_all(self, conn: sa.Connection, revisions: Sequence[sa.Row[Any]]) -> list[ServiceSpec]:
        """Return the specs of several such rows, in their order: one statement per table, however many they are."""
        found = {(row.service, row.number): self._specs.get((row.service, row.number)) for row in revisions}
        missing = [row for row in revisions if found[row.service, row.number] is None]
        if missing:
            read = _read_specs(conn, missing)
            found |= read
            with self._lock:
                if len(self._specs) + len(read) > CACHED_SPECS:
                    self._specs.clear()
                self._specs |= read
        return [spec for row in revisions if (spec := found[row.service, row.number]) is not None]


def revision_of(row: sa.Row[Any], spec: ServiceSpec) -> Revision:
    """Return the revision that a row of ``service_revision`` describes."""
    return Revision(
        number=row.number,
        spec=spec,
        status=RevisionStatus(row.status),
        words=row.words,
        by=row.by,
        why=row.why,
        at=row.at,
        tried_at=row.tried_at,
    )


def insert_revision(conn: sa.Connection, revision: Revision) -> None:
    """Insert a revision and all its parts."""
    conn.execute(tables.service_revision.insert(), _revision_to_row(revision))
    parts = _parts_to_rows(revision.spec)
    for table in tables.REVISION_PARTS:
        rows = parts[table]
        if rows:
            key = {"service": revision.spec.name, "revision": revision.number}
            conn.execute(table.insert(), [{**key, "position": place, **row} for place, row in enumerate(rows)])


def _revision_to_row(revision: Revision) -> dict[str, Any]:
    spec = revision.spec
    return {
        "service": spec.name,
        "number": revision.number,
        "status": revision.status.value,
        "words": revision.words,
        "by": revision.by,
        "why": revision.why,
        "at": revision.at,
        "listener_name": spec.listener.name,
        "listener_address": spec.listener.address,
        "listener_port": spec.listener.port,
        "listener_stat_prefix": spec.listener.stat_prefix,
        "listener_certificate": spec.listener.certificate,
        "virtual_host": spec.virtual_host,
        "route_config": spec.route_config,
        "domains": list(spec.domains),
        "grpc_target": spec.grpc_target or None,
        "plan_deadline_us": spec.plan.deadline,
        "plan_prepare_timeout_us": spec.plan.prepare_timeout,
        "groups": list(spec.groups),
        "config_canary_us": spec.config_canary,
        "mirror_to": spec.mirror.to if spec.mirror else None,
        "mirror_share_bp": spec.mirror.share_bp if spec.mirror else None,
        "draw_header": spec.draw_header,
    }


def _parts_to_rows(spec: ServiceSpec) -> dict[sa.Table, Rows]:
    return {
        tables.version: [_version_to_row(version) for version in spec.versions],
        tables.endpoint: [
            {"version": version.name, "host": endpoint.host, "port": endpoint.port}
            for version in spec.versions
            for endpoint in version.endpoints
        ],
        tables.route: [
            {"name": route.name, "prefix": route.match.prefix, "version": route.version, "timeout_us": route.timeout}
            for route in spec.routes
        ],
        tables.route_header: [
            {"route": route.name, "name": header.name, "rule": header.rule.value, "value": header.value}
            for route in spec.routes
            for header in route.match.headers
        ],
        tables.slo: [slo_to_json(slo) for slo in spec.slos],
        tables.plan_step: [
            {
                "weight_bp": step.weight_bp,
                "hold_us": step.hold,
                "pause": step.pause,
                "quality": step.quality,
                "gate": gate_to_json(step.gate),
            }
            for step in spec.plan.steps
        ],
        tables.initial_share: [
            {"version": share.version, "weight_bp": share.weight_bp} for share in spec.initial_split
        ],
    }


Parts = Mapping[sa.Table, Sequence[sa.Row[Any]]]
"""The rows of one revision, by table."""


def _read_specs(conn: sa.Connection, revisions: Sequence[sa.Row[Any]]) -> dict[tuple[str, int], ServiceSpec]:
    """Put specs together from the parts of *revisions*, rows of ``service_revision``."""
    asked = {"services": [row.service for row in revisions], "numbers": list({row.number for row in revisions})}
    parts: dict[tuple[str, int], dict[sa.Table, list[sa.Row[Any]]]] = {
        (row.service, row.number): {table: [] for table in tables.REVISION_PARTS} for row in revisions
    }
    for table, query in _PARTS.items():
        for row in conn.execute(query, asked):
            mine = parts.get((row.service, row.revision))
            if mine is not None:  # else it is another service's revision of the same number
                mine[table].append(row)
    return {(row.service, row.number): _spec_of(row, parts[row.service, row.number]) for row in revisions}


_PARTS: Final = {
    table: sa.select(table)
    .where(
        table.c.service.in_(sa.bindparam("services", expanding=True)),
        table.c.revision.in_(sa.bindparam("numbers", expanding=True)),
    )
    .order_by(table.c.service, table.c.revision, table.c.position)
    for table in tables.REVISION_PARTS
}


def _spec_of(revision: sa.Row[Any], parts: Parts) -> ServiceSpec:
    endpoints: dict[str, list[Endpoint]] = {}
    for row in parts[tables.endpoint]:
        endpoints.setdefault(row.version, []).append(Endpoint(host=row.host, port=row.port))
    headers: dict[str, list[HeaderMatch]] = {}
    for row in parts[tables.route_header]:
        header = HeaderMatch(name=row.name, rule=HeaderRule(row.rule), value=row.value)
        headers.setdefault(row.route, []).append(header)
    return ServiceSpec(
        name=revision.service,
        listener=Listener(
            name=revision.listener_name,
            address=revision.listener_address,
            port=revision.listener_port,
            stat_prefix=revision.listener_stat_prefix,
            certificate=revision.listener_certificate,
        ),
        virtual_host=revision.virtual_host,
        route_config=revision.route_config,
        versions=tuple(_version_from_row(row, endpoints.get(row.name, ())) for row in parts[tables.version]),
        routes=tuple(
            Route(
                name=row.name,
                match=RouteMatch(prefix=row.prefix, headers=tuple(headers.get(row.name, ()))),
                version=row.version,
                timeout=row.timeout_us,
            )
            for row in parts[tables.route]
        ),
        initial_split=tuple(Share(version=row.version, weight_bp=row.weight_bp) for row in parts[tables.initial_share]),
        slos=tuple(slo_from_json(row._mapping) for row in parts[tables.slo]),  # noqa: SLF001 - public, despite its name
        plan=Plan(
            steps=tuple(
                Step(row.weight_bp, row.hold_us, row.pause, row.quality, gate_from_json(row.gate))
                for row in parts[tables.plan_step]
            ),
            deadline=revision.plan_deadline_us,
            prepare_timeout=revision.plan_prepare_timeout_us,
        ),
        domains=tuple(revision.domains),
        groups=tuple(revision.groups),
        config_canary=revision.config_canary_us,
        grpc_target=revision.grpc_target or "",
        mirror=None if revision.mirror_to is None else Mirror(revision.mirror_to, revision.mirror_share_bp),
        draw_header=revision.draw_header,
    )


def _version_to_row(version: Version) -> dict[str, Any]:
    check = version.health_check
    return {
        "name": version.name,
        "cluster": version.cluster,
        "connect_timeout_us": version.connect_timeout,
        "check_path": check.path,
        "check_interval_us": check.interval,
        "check_timeout_us": check.timeout,
        "check_healthy_threshold": check.healthy_threshold,
        "check_unhealthy_threshold": check.unhealthy_threshold,
        **_model_to_row(version.model),
    }


def _version_from_row(row: sa.Row[Any], endpoints: Iterable[Endpoint]) -> Version:
    return Version(
        name=row.name,
        cluster=row.cluster,
        endpoints=tuple(endpoints),
        health_check=HealthCheck(
            path=row.check_path,
            interval=row.check_interval_us,
            timeout=row.check_timeout_us,
            healthy_threshold=row.check_healthy_threshold,
            unhealthy_threshold=row.check_unhealthy_threshold,
        ),
        connect_timeout=row.connect_timeout_us,
        model=ModelPin(row.model_name, row.model_checksum, row.model_code_version or "") if row.model_name else None,
    )


def _model_to_row(pin: ModelPin | None) -> dict[str, Any]:
    return {
        "model_name": pin and pin.name,
        "model_checksum": pin and pin.checksum,
        "model_code_version": pin and pin.code_version,
    }
