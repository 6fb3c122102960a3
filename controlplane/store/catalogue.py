"""Services, their revisions and the live split."""

import dataclasses
import datetime as dt
import ipaddress
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from controlplane.errors import ConflictError, PreconditionFailedError
from controlplane.ports import HistoryEntry, Revision, RevisionStatus, ServiceRecord
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.queries import (
    Part,
    ServiceRows,
    active_rollouts,
    append_history,
    audit,
    load_splits,
    lock_service,
    newest_revisions,
    no_service,
    of_the_living,
    replace_split,
    services_after,
    unrejected_revisions,
    weights_of,
    with_why,
)
from controlplane.store.specs import SpecCache, insert_revision, revision_of
from controlplane.traffic.model import Listener, ServiceSpec, Split, check_split
from controlplane.wake import Topic


class SqlCatalogue(Part):
    """The port `CatalogueStore` on SQL."""

    __slots__ = ()

    async def apply(
        self, spec: ServiceSpec, *, by: str, why: str, now: dt.datetime, expected: int | None = None
    ) -> tuple[Revision, bool]:
        return await self.database.write(
            lambda tx: apply_spec(tx, self.specs, spec, by=by, why=why, now=now, expected=expected)
        )

    async def load_service(self, name: str) -> ServiceRecord:
        def work(tx: Tx) -> ServiceRecord:
            records = _records(tx.conn, self.specs, name)
            if not records:
                raise no_service(tx.conn, name)
            return records[0]

        return await self.database.read(work)

    async def list_services(
        self, *, after: str = "", limit: int | None = None, only: Collection[str] | None = None
    ) -> tuple[ServiceRecord, ...]:
        def work(tx: Tx) -> tuple[ServiceRecord, ...]:
            if limit is None and only is None:
                return tuple(record for record in _records(tx.conn, self.specs) if record.name > after)
            rows = services_after(tx.conn, after, limit, only)
            return tuple(_records_of(tx.conn, self.specs, rows))

        return await self.database.read(work)

    async def set_split(self, service: str, split: Split, *, by: str, why: str, now: dt.datetime) -> None:
        check_split(split)
        await self.database.write(lambda tx: _set_split(tx, self.specs, service, split, by=by, why=why, now=now))

    async def mark_revisions(
        self, numbers: Mapping[str, int], status: RevisionStatus, words: str, *, now: dt.datetime
    ) -> None:
        def work(tx: Tx) -> None:
            table = tables.service_revision
            for service, number in sorted(numbers.items()):
                changed = tx.conn.execute(
                    table.update()
                    .where(table.c.service == service, table.c.number == number)
                    .where(table.c.status != RevisionStatus.GOOD.value)
                    .where(sa.or_(table.c.status != status.value, table.c.words != words))
                    .values(status=status.value, words=words)
                )
                if changed.rowcount:
                    if status is RevisionStatus.REJECTED:
                        sentence = f"revision {number} is rejected: {words}"
                        append_history(tx.conn, [_reviewed(service, "Rejected", sentence, now)])
                    tx.announce(Topic.DESIRED)

        await self.database.write(work)

    async def mark_tried(self, numbers: Mapping[str, int], words: str, *, now: dt.datetime) -> None:
        def work(tx: Tx) -> None:
            table = tables.service_revision
            for service, number in sorted(numbers.items()):
                changed = tx.conn.execute(
                    table.update()
                    .where(table.c.service == service, table.c.number == number, table.c.tried_at.is_(None))
                    .values(tried_at=now)
                )
                if changed.rowcount:
                    append_history(tx.conn, [_reviewed(service, "Tried", f"revision {number}: {words}", now)])
                    tx.announce(Topic.DESIRED)

        await self.database.write(work)


def _reviewed(service: str, after: str, words: str, at: dt.datetime) -> HistoryEntry:
    """Make the entry for what the fleet made of a revision."""
    return HistoryEntry(
        number=0,
        at=at,
        kind="transition",
        service=service,
        rollout=None,
        what=after,
        by="fleet",
        words=words,
        before="Proposed",
        after=after,
    )


def _records(conn: sa.Connection, specs: SpecCache, name: str | None = None) -> list[ServiceRecord]:
    newest = dict(sorted(newest_revisions(conn, name).items()))
    rows = ServiceRows(newest, unrejected_revisions(conn, name), load_splits(conn, name))
    return _records_of(conn, specs, rows)


def _records_of(conn: sa.Connection, specs: SpecCache, rows: ServiceRows) -> list[ServiceRecord]:
    specs.load_all(conn, [*rows.newest.values(), *rows.unrejected.values()])
    records = []
    for service, row in rows.newest.items():
        served = rows.unrejected.get(service, row)
        records.append(
            ServiceRecord(
                name=service,
                newest=revision_of(row, specs.load(conn, row)),
                served=revision_of(served, specs.load(conn, served)),
                split=rows.splits[service],
            )
        )
    return records


def _set_split(tx: Tx, specs: SpecCache, service: str, split: Split, *, by: str, why: str, now: dt.datetime) -> None:
    lock_service(tx, service)
    active = active_rollouts(tx.conn, service)
    if active:
        raise ConflictError(
            f"split: rollout {active[service].id} owns the split of {service!r}; abort it or wait until it has ended"
        )
    served = _records(tx.conn, specs, service)[0].served
    for share in split:
        served.spec.version(share.version, field="split")
    replace_split(tx.conn, service, split)
    shown = ", ".join(f"{share.version} {share.weight_bp / 100:g} %" for share in split)
    entry = audit(service, "set-split", by=by, words=with_why(f"the split is now {shown}", why), at=now)
    append_history(tx.conn, [dataclasses.replace(entry, weights=weights_of(split))])
    tx.announce(Topic.DESIRED)


# -- apply -------------------------------------------------------------------------------------------------------------


def apply_spec(
    tx: Tx, specs: SpecCache, spec: ServiceSpec, *, by: str, why: str, now: dt.datetime, expected: int | None = None
) -> tuple[Revision, bool]:
    """Do what `CatalogueStore.apply` says, in a transaction that may do more."""
    tx.lock("catalogue")  # what one declaration claims is checked against all others
    newest = newest_revisions(tx.conn, spec.name).get(spec.name)
    found = 0 if newest is None else newest.number
    if expected is not None and expected != found:
        raise PreconditionFailedError(
            f"service {spec.name!r} is at revision {found}, not {expected}; read it again and decide anew"
        )
    if newest is None:
        revisions = tables.service_revision
        last = tx.conn.scalar(sa.select(sa.func.max(revisions.c.number)).where(revisions.c.service == spec.name))
        number = (last or 0) + 1
        if last is None:  # otherwise one of this name was deleted, and its row holds its history
            tx.conn.execute(tables.service.insert(), {"name": spec.name, "created_at": now})
    else:
        lock_service(tx, spec.name)
        declared = specs.load(tx.conn, newest)
        if declared == spec:
            return revision_of(newest, declared), False
        number = newest.number + 1
    _refuse_claimed(tx.conn, specs, spec)
    _refuse_missing_versions(tx.conn, spec)
    revision = Revision(number=number, spec=spec, status=RevisionStatus.PROPOSED, words="", by=by, why=why, at=now)
    insert_revision(tx.conn, revision)
    _fit_split(tx.conn, spec)
    entry = audit(spec.name, "apply", by=by, words=with_why(f"revision {number} declared", why), at=now)
    weights = weights_of(load_splits(tx.conn, spec.name)[spec.name])
    append_history(tx.conn, [dataclasses.replace(entry, weights=weights)])
    tx.announce(Topic.DESIRED)
    return revision, True


def _refuse_claimed(conn: sa.Connection, specs: SpecCache, spec: ServiceSpec) -> None:
    clusters = {version.cluster for version in spec.versions}
    for row in _revisions_in_play(conn):
        if row.service == spec.name:
            continue
        other = specs.load(conn, row)
        if other.listener.name == spec.listener.name:
            raise _claimed("listener.name", f"{spec.listener.name!r}", other)
        if _share_a_socket(other.listener, spec.listener):
            raise _claimed("listener.port", f"{spec.listener.address}:{spec.listener.port}", other)
        if other.route_config == spec.route_config:
            raise _claimed("route_config", f"{spec.route_config!r}", other)
        for version in other.versions:
            if version.cluster in clusters:
                raise _claimed("versions.cluster", f"{version.cluster!r}", other)


def _claimed(field: str, value: str, owner: ServiceSpec) -> ConflictError:
    return ConflictError(f"{field}: {value} belongs to service {owner.name!r}; choose another one")


def _share_a_socket(one: Listener, other: Listener) -> bool:
    if one.port != other.port:
        return False
    addresses = {ipaddress.ip_address(one.address), ipaddress.ip_address(other.address)}
    return len(addresses) == 1 or any(address.is_unspecified for address in addresses)


def _revisions_in_play(conn: sa.Connection) -> Iterator[sa.Row[Any]]:
    """Yield what is served or may be served again: a proposed revision can be refused, down to the last good one."""
    table = tables.service_revision
    newer = table.alias()
    superseded = sa.exists().where(
        newer.c.service == table.c.service, newer.c.number > table.c.number, newer.c.status == "good"
    )
    yield from conn.execute(
        sa.select(table)
        .where(table.c.status != "rejected", ~superseded, of_the_living(table))
        .order_by(table.c.service, table.c.number)
    )


def _refuse_missing_versions(conn: sa.Connection, spec: ServiceSpec) -> None:
    names = {version.name for version in spec.versions}
    for share in load_splits(conn, spec.name).get(spec.name, ()):
        if share.weight_bp and share.version not in names:
            raise ConflictError(
                f"versions: {share.version!r} carries {share.weight_bp / 100:g} % of the traffic and is missing;"
                " keep it until a rollout has moved its traffic away"
            )
    rollout = active_rollouts(conn, spec.name).get(spec.name)
    if rollout is not None:
        for name in (rollout.baseline, rollout.candidate):
            if name not in names:
                raise ConflictError(
                    f"versions: {name!r} is moved by rollout {rollout.id} and is missing; keep it until that has ended"
                )


def _fit_split(conn: sa.Connection, spec: ServiceSpec) -> None:
    """Set the first live split; later only forget versions that are gone, which carry nothing."""
    live = load_splits(conn, spec.name).get(spec.name)
    if live is None:
        replace_split(conn, spec.name, spec.initial_split)
        return
    names = {version.name for version in spec.versions}
    kept = tuple(share for share in live if share.version in names)
    if kept != live:
        replace_split(conn, spec.name, kept)
