"""Lists cost what their page costs: 500 services and a year of history are read by index, in a few statements."""

import asyncio
import contextlib
import pathlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from controlplane.auth.keys import KeyRing
from controlplane.rollout.model import Promoted
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.job_tables import job, job_owner
from tests import builders
from tests.unit.api.filled import fill
from tests.unit.api.world import World, make_template, open_world

SERVICES, ENTRIES, ROLLOUTS, JOBS, OWNERS = 500, 20_000, 2_000, 10_000, 500
NAMES = "(history|rollout|job|job_owner|service|service_revision|split_share)"
GROWING = re.compile(rf"FROM {NAMES}\b")
"""Tables that grow with the years and the services; all others are kept short, or have a row per Envoy."""
COSTLY = re.compile(rf"SCAN {NAMES}$|TEMP B-TREE")
"""A look at every row, or rows that are sorted since no index has them in order."""


def multiply(tx: Tx, table: sa.Table, count: int, change: Callable[[dict[str, Any], int], dict[str, Any]]) -> None:
    """Insert *count* copies of each row of *table*."""
    rows = [dict(row) for row in tx.conn.execute(sa.select(table)).mappings()]
    own = {"number"} if table.primary_key.columns.keys() == ["number"] else set()
    copies = [change(row, place) for row in rows for place in range(count)]
    tx.conn.execute(table.insert(), [{name: each[name] for name in each if name not in own} for each in copies])


def crowd(tx: Tx) -> None:
    """Make a year's worth of rows of the few that there are."""

    def renamed(row: dict[str, Any], place: int) -> dict[str, Any]:
        key = "name" if "created_at" in row else "service"
        return {**row, key: f"{row[key]}-{place:04}"}

    of_service = (tables.service, tables.split_share, tables.service_revision, *tables.REVISION_PARTS)
    for table in of_service:
        multiply(tx, table, SERVICES, renamed)
    multiply(tx, tables.rollout, ROLLOUTS, lambda row, n: {**row, "id": f"{row['service']}-{n + 9}", "number": n + 9})
    told = sa.select(tables.history).where(tables.history.c.service == "colorize")
    first = tx.conn.execute(told.limit(1)).mappings().one()
    entries = [{**first, "rollout": f"colorize-{n % ROLLOUTS + 9}"} for n in range(ENTRIES)]
    tx.conn.execute(tables.history.insert(), [{k: v for k, v in row.items() if k != "number"} for row in entries])
    multiply(tx, job, JOBS, lambda row, n: {**row, "idempotency_key": None, "id": f"j{n}", "task_id": f"t{n}"})
    multiply(tx, job_owner, OWNERS, lambda row, n: {**row, "name": f"owner-{n:04}"})


@pytest.fixture(scope="module")
def crowded_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("crowd")
    template = make_template(folder)

    async def make() -> pathlib.Path:
        async with open_world(template, folder) as world:
            await fill(world)
            (latest,) = await world.store.list_rollouts("colorize")
            await world.move(latest, Promoted(at=builders.NOW, words="all kept"))
            await world.store.database.write(crowd)
            await KeyRing(store=world.store, clock=world.clock).revoke("ada")  # each world makes one of that name
        (path,) = folder.glob("store-*.sqlite3")
        return path

    return asyncio.run(make())


@pytest.fixture
async def crowded(crowded_file: pathlib.Path, tmp_path: pathlib.Path) -> AsyncIterator[World]:
    async with open_world(crowded_file, tmp_path) as world:
        yield world


@contextlib.contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Take down every statement that is run meanwhile."""
    seen: list[tuple[str, Any]] = []

    def note(_conn: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "WITH")):
            seen.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


async def costly(world: World, seen: list[tuple[str, Any]]) -> list[str]:
    """Return the steps of statements that were taken down which cost more, the more rows a growing table has."""

    def explain(tx: Tx) -> list[str]:
        return [
            f"{step[3]} <- {statement}"
            for statement, parameters in seen
            if GROWING.search(statement)
            for step in tx.conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            if COSTLY.search(step[3])
        ]

    return await world.store.database.read(explain)


LISTS = [
    ("/v1/services", 18),
    ("/v1/services/colorize/rollouts", 8),
    ("/v1/services/colorize/history", 8),
    ("/v1/services/colorize/history?rollout=colorize-77", 8),
    ("/v1/jobs", 3),
    ("/v1/jobs?state=done", 3),
    ("/v1/job-owners", 3),
    ("/v1/proxies", 12),
]


@pytest.mark.parametrize(("path", "most"), LISTS, ids=[path for path, _ in LISTS])
async def test_a_page_takes_a_few_statements_each_by_an_index(crowded: World, path: str, most: int) -> None:
    async with crowded.http() as http:
        await page(http, path, limit=200)  # specs are read once, however often they are shown
        for limit in (3, 200):
            with statements() as seen:
                first = await page(http, path, limit=limit)
            assert len(seen) <= most, [statement for statement, _ in seen]
            assert await costly(crowded, seen) == []
            if first["next"] is None:
                continue
            with statements() as again:
                await page(http, path, limit=limit, cursor=first["next"])
            assert len(again) <= most
            assert await costly(crowded, again) == []


async def test_a_look_at_every_row_would_be_noticed(crowded: World) -> None:
    with statements() as seen:
        await crowded.store.list_rollouts()
        await crowded.store.database.read(lambda tx: tx.conn.execute(sa.select(tables.history.c.words)).all())
        await crowded.store.database.read(
            lambda tx: tx.conn.execute(sa.select(job.c.words).where(job.c.owner == "ada").order_by(job.c.words)).all()
        )
    found = await costly(crowded, seen)
    assert [line.partition(" <- ")[0] for line in found][-2:] == ["SCAN history", "USE TEMP B-TREE FOR ORDER BY"]


async def page(http: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await http.get(path, params={**httpx.URL(path).params, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("path", "name", "count"),
    [
        ("/v1/services", "name", SERVICES + 1),
        ("/v1/services/colorize/rollouts", "id", ROLLOUTS + 1),
        ("/v1/job-owners", "owner", OWNERS + 1),
    ],
)
async def test_pages_together_are_the_list_without_gaps_or_repetitions(
    crowded: World, path: str, name: str, count: int
) -> None:
    async with crowded.http() as http:
        found: list[str] = []
        cursor = None
        while True:
            part = await page(http, path, limit=200, **({"cursor": cursor} if cursor else {}))
            found += [each[name] for each in part["items"]]
            cursor = part["next"]
            if cursor is None:
                break
    assert len(found) == len(set(found)) == count


@pytest.mark.parametrize(
    "cursor", ["x", "é", "c2VydmljZXM", "amM6MQ", "aGlzdG9yeTp4", "aGlzdG9yeTo" + "5" * 40, "a" * 513]
)
async def test_a_cursor_that_is_none_of_ours_is_refused(crowded: World, cursor: str) -> None:
    async with crowded.http() as http:
        answer = await http.get("/v1/services/colorize/history", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
