"""Comparisons of rollouts' pictures: a row each, begun before a photo is sent, and the worst pictures beside it."""

import dataclasses
import datetime as dt
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import NotFoundError
from controlplane.ports import Compared, QualityReport, RolloutId, WorstPicture
from controlplane.rollout.quality import QualityRun, QualityVerdict, RunStatus
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.queries import Part, append_history, audit
from controlplane.store.telemetry_tables import quality_picture, quality_run
from controlplane.wake import Topic

_RUN: Final = (
    quality_run.c.number,
    quality_run.c.at,
    quality_run.c.status,
    quality_run.c.ended_at,
    quality_run.c.verdict,
    quality_run.c.words,
    quality_run.c.old,
    quality_run.c.new,
)
_NEWEST: Final = (
    sa.select(*_RUN)
    .where(quality_run.c.rollout == sa.bindparam("of"))
    .order_by(quality_run.c.number.desc())
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


class SqlQuality(Part):
    """The port `QualityStore` on SQL."""

    __slots__ = ()

    async def begin_quality_run(self, rollout: RolloutId, *, now: dt.datetime) -> QualityRun:
        return await self.database.write(lambda tx: _begin(tx, rollout, now))

    async def end_quality_run(self, rollout: RolloutId, run: QualityRun, compared: Compared | None) -> bool:
        return await self.database.write(lambda tx: _end(tx, rollout, run, compared))

    async def load_quality_runs(self, rollout: RolloutId, *, limit: int = 2) -> tuple[QualityRun, ...]:
        return await self.database.read(lambda tx: _newest(tx.conn, rollout, limit))

    async def load_quality_report(self, rollout: RolloutId, number: int) -> QualityReport:
        def work(tx: Tx) -> QualityReport:
            query = sa.select(*_RUN, quality_run.c.report).where(_is(quality_run, rollout, number))
            row = tx.conn.execute(query).first()
            if row is None:
                known = tx.conn.scalars(sa.select(quality_run.c.number).where(quality_run.c.rollout == rollout))
                raise NotFoundError(f"comparison of {rollout}", str(number), tuple(map(str, known)))
            worst = sa.select(quality_picture.c.name, quality_picture.c.words).where(
                _is(quality_picture, rollout, number)
            )
            pictures = tx.conn.execute(worst.order_by(quality_picture.c.place))
            return QualityReport(_run_of(row), row.report, tuple((each.name, each.words) for each in pictures))

        return await self.database.read(work)

    async def load_worst_picture(self, rollout: RolloutId, number: int, place: int) -> WorstPicture:
        def work(tx: Tx) -> WorstPicture:
            query = sa.select(quality_picture).where(
                _is(quality_picture, rollout, number), quality_picture.c.place == place
            )
            row = tx.conn.execute(query).first()
            if row is None:
                raise NotFoundError(f"picture of {rollout}'s comparison {number}", str(place))
            return WorstPicture(row.name, row.words, row.jpeg)

        return await self.database.read(work)


def prune_quality(conn: sa.Connection, before: dt.datetime) -> None:
    """Delete runs older than *before*, and pictures of them; of a rollout that goes on the newest run stays."""
    old = sa.select(sa.literal(1)).where(
        quality_run.c.rollout == quality_picture.c.rollout,
        quality_run.c.number == quality_picture.c.number,
        quality_run.c.at < before,
    )
    conn.execute(quality_picture.delete().where(old.exists()))
    other = quality_run.alias()
    newest = sa.select(sa.func.max(other.c.number)).where(other.c.rollout == quality_run.c.rollout).scalar_subquery()
    ended = sa.select(tables.rollout.c.id).where(tables.rollout.c.ended_at.is_not(None))
    conn.execute(
        quality_run.delete().where(
            quality_run.c.at < before, sa.or_(quality_run.c.number < newest, quality_run.c.rollout.in_(ended))
        )
    )


def _begin(tx: Tx, rollout: RolloutId, now: dt.datetime) -> QualityRun:
    newest = _newest(tx.conn, rollout, 1)
    if newest and newest[0].verdict is None:
        run = QualityRun(newest[0].number, now)
        tx.conn.execute(quality_run.update().where(_is(quality_run, rollout, run.number)), _to_row(run))
        return run
    run = QualityRun(newest[0].number + 1 if newest else 1, now)
    row = {"rollout": rollout, "report": {}, **_to_row(run)}
    tx.conn.execute(quality_run.insert(), row)
    return run


def _end(tx: Tx, rollout: RolloutId, run: QualityRun, compared: Compared | None) -> bool:
    newest = _newest(tx.conn, rollout, 2)
    mine = next((each for each in newest if each.number == run.number), None)
    if mine is None or mine.status is not RunStatus.RUNNING or mine.at != run.at:
        return False
    report = dict(compared.report) if compared else {}
    tx.conn.execute(
        quality_run.update().where(_is(quality_run, rollout, run.number)), {**_to_row(run), "report": report}
    )
    if compared is not None and compared.worst:
        key = {"rollout": rollout, "number": run.number}
        rows = [
            {**key, "place": place, **dataclasses.asdict(picture)}
            for place, picture in enumerate(compared.worst, start=1)
        ]
        tx.conn.execute(quality_picture.insert(), rows)
    before = next((each.verdict for each in newest if each.number < run.number), None)
    if run.verdict is not None and run.verdict is not before:
        service = tx.conn.scalar(sa.select(tables.rollout.c.service).where(tables.rollout.c.id == rollout))
        told = audit(
            service or "", "compare", by="hueshift", words=run.words, at=run.ended_at or run.at, rollout=rollout
        )
        append_history(tx.conn, [told])
    tx.announce(Topic.TELEMETRY)
    return True


def _newest(conn: sa.Connection, rollout: RolloutId, limit: int) -> tuple[QualityRun, ...]:
    return tuple(map(_run_of, conn.execute(_NEWEST, {"of": rollout, "limit": limit})))


def _is(table: sa.Table, rollout: RolloutId, number: int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.rollout == rollout, table.c.number == number)


def _to_row(run: QualityRun) -> dict[str, Any]:
    return {
        "number": run.number,
        "at": run.at,
        "status": run.status.value,
        "ended_at": run.ended_at,
        "verdict": run.verdict.value if run.verdict else None,
        "words": run.words,
        "old": run.old,
        "new": run.new,
    }


def _run_of(row: sa.Row[Any]) -> QualityRun:
    return QualityRun(
        number=row.number,
        at=row.at,
        status=RunStatus(row.status),
        ended_at=row.ended_at,
        verdict=QualityVerdict(row.verdict) if row.verdict else None,
        words=row.words,
        old=row.old,
        new=row.new,
    )
