"""Looks slowly through all that is stored for what a kill has left: blobs that no row names, files half written.

A photo is stored before its row, and a result before the row says so, so a process that dies in between leaves a blob.
Choice: nothing is written down beforehand that could name it; keys name the job, and a blob whose job does not want it
goes once it is older than any upload can take. Consequence: the scan may stop anywhere and begin anew, several
processes may scan at once, and what is not of our making is left alone.
"""

import dataclasses
import datetime as dt
import re
from collections.abc import Mapping
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.jobs.model import FINAL, Job, JobId
from controlplane.jobs.ports import MAX_LISTED, BlobStore, JobStore, StoredBlob

log = structlog.get_logger()

GRACE: Final = dt.timedelta(hours=1)
"""How old a blob must be: longer than an upload, and than clocks differ."""
MOST_UNKNOWN: Final = 100
"""What a page may have that no row names. More are no leftovers of kills but another database's pictures: the address
of the blobs or of the database is wrong, and nothing is removed."""
PREFIXES: Final = ("photos/", "results/")
_KEY: Final = re.compile(r"(?:photos/(?P<photo>[0-9a-f]{32})|results/(?P<result>[0-9a-f]{32})/[0-9]{1,9})")
_HALF: Final = re.compile(r"(?:photos|results/[0-9a-f]{32})/\.part-[^/]+")


def job_of_key(key: str) -> JobId | None:
    """Return the job that a blob was stored for; None where it is none of ours, or half written."""
    found = _KEY.fullmatch(key)
    return None if found is None else JobId(found["photo"] or found["result"])


def is_left_over(blob: StoredBlob, pictured: Mapping[JobId, Job], *, now: dt.datetime) -> bool:
    """Say whether nobody wants *blob*.

    A job that waits or runs keeps all of its blobs: which of them count is not settled. One that has ended keeps its
    photo and its result.

    Args:
        blob: What was found.
        pictured: The jobs, of those that keys name, whose pictures are still there.
        now: The time.
    """
    if blob.stored_at > now - GRACE:
        return False
    if _HALF.fullmatch(blob.key):
        return True
    of = job_of_key(blob.key)
    if of is None:
        return False
    job = pictured.get(of)
    if job is None:
        return True
    if job.state not in FINAL or blob.key.startswith(PREFIXES[0]):
        return False
    return job.result is None or job.result.key != blob.key


@dataclasses.dataclass(slots=True, kw_only=True)
class LeftoverScan:
    """Looks at a page of blobs once per *pause*, and rests once it has seen all."""

    store: JobStore
    blobs: BlobStore
    clock: Clock
    pause: dt.timedelta = dt.timedelta(minutes=1)
    rest: dt.timedelta = dt.timedelta(hours=1)
    page: int = MAX_LISTED
    _turn: int = 0
    _after: str = ""
    _due: dt.datetime | None = None

    async def look(self) -> int:
        """Look at the next page, if it is time; return how many blobs were removed.

        Raises:
            UnavailableError: The blobs or the rows cannot be reached; the page is looked at again.
        """
        now = self.clock.now()
        if self._due is not None and now < self._due:
            return 0
        self._due = now + self.pause
        await self.store.date_pictures(limit=self.page)
        found = await self.blobs.list_blobs(PREFIXES[self._turn], after=self._after, limit=self.page)
        removed = await self._remove(found, now)
        if len(found) == self.page:
            self._after = found[-1].key
        else:
            self._after = ""
            self._turn = (self._turn + 1) % len(PREFIXES)
            if self._turn == 0:
                self._due = now + self.rest
        return removed

    async def _remove(self, found: tuple[StoredBlob, ...], now: dt.datetime) -> int:
        jobs = {job for blob in found if (job := job_of_key(blob.key)) is not None}
        pictured = await self.store.load_pictured(jobs) if jobs else {}
        left = [blob.key for blob in found if is_left_over(blob, pictured, now=now)]
        unknown = sum((job := job_of_key(key)) is not None and job not in pictured for key in left)
        if unknown > MOST_UNKNOWN:
            log.warning("jobs.blobs_of_another_database", blobs=unknown, after=self._after)
            return 0
        for key in left:
            await self.blobs.delete_blob(key)
        if left:
            log.info("jobs.leftovers_removed", blobs=len(left))
        return len(left)
