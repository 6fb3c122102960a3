"""How one process learns of another's commits on PostgreSQL: NOTIFY inside the writer's transaction, LISTEN here."""

import dataclasses
import datetime as dt
from typing import Any, Final

import structlog

from controlplane.clock import Clock
from controlplane.store.engine import CHANNEL, POSTGRES_CONNECT_ARGS, Database
from controlplane.store.urls import shown
from controlplane.wake import Topic

log = structlog.get_logger()

FIRST_DELAY: Final = dt.timedelta(seconds=1)
LONGEST_DELAY: Final = dt.timedelta(seconds=30)


@dataclasses.dataclass(slots=True, kw_only=True)
class Listener:
    """Holds one connection and passes the other processes' announcements to our wake board."""

    database: Database
    clock: Clock

    async def run(self) -> None:
        """Listen until cancelled; connect again, less and less often, when the server goes away."""
        import psycopg  # noqa: PLC0415 - an extra: SQLite users do not have it

        delay = FIRST_DELAY
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(**self._connect_args(), autocommit=True)
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    delay = FIRST_DELAY
                    self.database.board.announce(*Topic)  # whatever was said while nobody listened
                    async for notice in connection.notifies():
                        self.hear(notice.payload)
            except psycopg.OperationalError as exc:
                words = str(exc).strip().partition("\n")[0]
                log.warning("store.listener_lost", database=shown(self.database.url), error=words)
            await self.clock.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    def hear(self, payload: str) -> None:
        """Announce a notice's topics: not our own, which were announced at the commit, nor a newer release's."""
        origin, _, names = payload.partition(":")
        if origin != self.database.origin:
            known = {topic.value: topic for topic in Topic}
            self.database.board.announce(*(known[name] for name in names.split(",") if name in known))

    def _connect_args(self) -> dict[str, Any]:
        url = self.database.url
        _, from_url = url.get_dialect()().create_connect_args(url)
        return {**POSTGRES_CONNECT_ARGS, **from_url}
