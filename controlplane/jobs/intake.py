"""Tasks of producers who know nothing of us become jobs: the row is committed before the message is acknowledged."""

import dataclasses
import datetime as dt
import json
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.errors import ConflictError, ControlPlaneError, InvalidInputError, OverQuotaError
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.model import Order
from controlplane.jobs.ports import ForeignTask, ForeignTasks
from controlplane.jobs.tasks import read_task

log = structlog.get_logger()

MAX_TAKEN: Final = 20
BACK_OFF: Final = dt.timedelta(seconds=1)
LATER: Final = (dt.timedelta(seconds=10), dt.timedelta(minutes=1))
"""How soon, and how late at most, the owner's quotas are looked at again once one is used up."""


@dataclasses.dataclass(slots=True, kw_only=True)
class TaskIntake:
    """Takes tasks in for *owner*, the name of an API key, which is then who may look at them."""

    tasks: ForeignTasks
    desk: JobDesk
    owner: str
    clock: Clock
    interval: dt.timedelta

    async def run(self) -> None:
        """Take tasks in, for ever."""
        while True:
            try:
                taken = await self.take()
            except OverQuotaError as exc:  # they stay where they are: their queue is made for that
                log.warning("tasks.wait", because=str(exc))
                await self.clock.sleep(min(LATER[1], max(LATER[0], exc.retry_after or LATER[0])))
                continue
            except ControlPlaneError as exc:
                log.warning("tasks.not_taken", error=str(exc))
                await self.clock.sleep(BACK_OFF)
                continue
            if not taken:
                await self.clock.sleep(self.interval)

    async def take(self) -> int:
        """Take one batch in, no more than there is room for; return how many tasks that were.

        Raises:
            OverQuotaError: The owner may have no more jobs now; tasks that were not taken in come again.
            UnavailableError: The queue or the database does not answer; tasks that were not taken in come again.
        """
        room = await self.desk.room(self.owner)
        taken = await self.tasks.take_tasks(limit=min(MAX_TAKEN, room))
        for place, task in enumerate(taken):
            try:
                await self._take_in(task)
            except ControlPlaneError:
                for left in taken[place:]:
                    await self.tasks.release_task(left)
                raise
        return len(taken)

    async def _take_in(self, task: ForeignTask) -> None:
        try:
            order = _order(task.body)
            job = await self.desk.submit(order, None, owner=self.owner, key=None)
        except (InvalidInputError, ConflictError) as exc:
            log.warning("task.refused", because=str(exc))
            await self.tasks.refuse_task(task, words=str(exc))
            return
        await self.tasks.acknowledge_task(task)
        log.info("job.submitted", job=job.id, kind=job.kind, by=self.owner)


def _order(body: bytes) -> Order:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError("body", "is not JSON", "send valid JSON in UTF-8") from exc
    order = read_task(document)
    if order.task_id is None:
        raise InvalidInputError("task_id", "is missing", "name the task: a repetition is told by it")
    return order
