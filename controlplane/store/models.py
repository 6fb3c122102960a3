"""Which models workers said that they serve, by cluster and address."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from controlplane.store.engine import Tx
from controlplane.store.queries import Part, upsert
from controlplane.store.telemetry_tables import model_report
from controlplane.traffic.provenance import ModelReport, ServedModel
from controlplane.wake import Topic


class SqlModels(Part):
    """The port `ModelStore` on SQL."""

    __slots__ = ()

    async def record_models(self, reports: Sequence[ModelReport], *, gone: Sequence[tuple[str, str]] = ()) -> None:
        def work(tx: Tx) -> None:
            before = {(each.cluster, each.address): _said(each) for each in _load(tx.conn, None)}
            for cluster, address in gone:
                one = sa.and_(model_report.c.cluster == cluster, model_report.c.address == address)
                tx.conn.execute(model_report.delete().where(one))
            upsert(tx.conn, model_report, [_to_row(report) for report in reports])
            if any(key in before for key in gone) or any(
                before.get((report.cluster, report.address)) != _said(report) for report in reports
            ):
                tx.announce(Topic.FLEET)

        await self.database.write(work)

    async def load_models(self, clusters: Sequence[str] | None = None) -> tuple[ModelReport, ...]:
        return await self.database.read(lambda tx: _load(tx.conn, clusters))


def _load(conn: sa.Connection, clusters: Sequence[str] | None) -> tuple[ModelReport, ...]:
    query = sa.select(model_report).order_by(model_report.c.cluster, model_report.c.address)
    if clusters is not None:
        query = query.where(model_report.c.cluster.in_(clusters))
    return tuple(_from_row(row) for row in conn.execute(query))


def _said(report: ModelReport) -> tuple[object, ...]:
    return report.models, report.code_version, report.words, report.at is None


def _to_row(report: ModelReport) -> dict[str, Any]:
    return {
        "cluster": report.cluster,
        "address": report.address,
        "models": [
            {
                "name": model.name,
                "checksum": model.checksum,
                "version": model.version,
                "family": model.family,
                "backend": model.backend,
            }
            for model in report.models
        ],
        "code_version": report.code_version,
        "words": report.words,
        "at": report.at,
    }


def _from_row(row: sa.Row[Any]) -> ModelReport:
    models = tuple(ServedModel(**model) for model in row.models)
    return ModelReport(row.cluster, row.address, models, row.code_version, row.words, row.at)
