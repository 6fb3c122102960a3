"""What becomes of jobs, told as it happens: of one job until it has ended, or of all jobs of an owner."""

import datetime as dt
import hashlib
import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request, Response
from pydantic import TypeAdapter

from controlplane.api.access import Owner, StillAllowed, UseParts
from controlplane.api.job_routes import JOBS, Which
from controlplane.api.job_schemas import JobView, job_view
from controlplane.api.sse import KEEP_ALIVE, MEDIA_TYPE, Event, EventStream, News, Streams
from controlplane.jobs.feed import JobFeed, Sighting
from controlplane.jobs.feed import News as JobNews
from controlplane.jobs.model import FINAL, JobId

router = APIRouter(prefix=JOBS, tags=["jobs"])

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "Events, one by one."}
}
_KNOWN: Final[dict[int | str, dict[str, Any]]] = {204: {"description": "You know how it ended."}}

LastEventId = Annotated[str | None, Header(description="The id of the last event that you know.", max_length=100)]


class FollowedJobView(JobView):
    """A job, and about how many of its queue's jobs will have been taken when it has: 1 is next."""

    place: int | None


_VIEWS: Final = TypeAdapter(list[FollowedJobView])


@router.get("/events", status_code=200, response_class=EventStream, responses=STREAM)
async def follow_jobs(
    request: Request, parts: UseParts, owner: Owner, still: StillAllowed, last_event_id: LastEventId = None
) -> Response:
    """Tell what becomes of your jobs: ``jobs`` events, the first of which (``first``) is how they stand now.

    ``{"first", "jobs", "places", "gone"}``: the jobs of which something is new, whole; the places in the queue of those
    of which nothing else is; the ids of those that were deleted. The first one has your open jobs (500 at most) and
    your last 50, and with the header ``Last-Event-ID`` also what has ended since that event.
    """
    news = _owners_news(parts.feed, owner, _moment(last_event_id))
    return _streams(request).open(owner, news, still_good=still)


@router.get("/{job}/events", status_code=200, response_class=EventStream, responses=STREAM | _KNOWN)
async def follow_job(
    job: Which,
    request: Request,
    parts: UseParts,
    owner: Owner,
    still: StillAllowed,
    last_event_id: LastEventId = None,
) -> Response:
    """Tell what becomes of one job: ``job`` events, the first of which is how it stands now, until it has ended.

    The last one may be ``gone``: it was deleted. Whoever knows its end already (``Last-Event-ID``) gets 204, which
    tells an ``EventSource`` not to come back.
    """
    found = await parts.desk.store.load_job(JobId(job), owner=owner)
    if found.state in FINAL and _job_event(Sighting(found, None)).id == last_event_id:
        return Response(status_code=204)
    news = _jobs_news(parts.feed, owner, found.id, last_event_id)
    return _streams(request).open(owner, news, still_good=still)


def _streams(request: Request) -> Streams:
    streams: Streams = request.app.state.streams
    return streams


async def _jobs_news(feed: JobFeed, owner: str, job: JobId, known: str | None) -> News:
    with feed.follow(owner, only=job) as onlooker:
        while True:
            news = await onlooker.wait_news(KEEP_ALIVE)
            if news is None:
                if onlooker.is_closed:
                    return
                yield None
                continue
            if news.gone or (news.first and not news.sightings):
                yield Event("gone", json.dumps({"id": job}))
                return
            for sighting in news.sightings:
                event = _job_event(sighting)
                if event.id != known:
                    known = event.id
                    yield event
                if sighting.job.state in FINAL:
                    return


def _job_event(sighting: Sighting) -> Event:
    data = _view(sighting).model_dump_json()
    return Event("job", data, hashlib.sha256(data.encode()).hexdigest()[:16])


async def _owners_news(feed: JobFeed, owner: str, since: dt.datetime | None) -> News:
    newest = since
    with feed.follow(owner, since=since) as onlooker:
        while True:
            news = await onlooker.wait_news(KEEP_ALIVE)
            if news is None:
                if onlooker.is_closed:
                    return
                yield None
                continue
            ends = [sighting.job.finished_at for sighting in news.sightings if sighting.job.finished_at is not None]
            newest = max([*ends, newest] if newest is not None else ends, default=None)
            yield _jobs_event(news, newest)


def _jobs_event(news: JobNews, newest: dt.datetime | None) -> Event:
    jobs = _VIEWS.dump_json([_view(sighting) for sighting in news.sightings]).decode()
    rest = json.dumps({"first": news.first, "places": dict(news.places), "gone": list(news.gone)})
    number = "0" if newest is None else str((newest - _EPOCH) // _MICROSECOND)
    return Event("jobs", f'{rest[:-1]}, "jobs": {jobs}}}', number)


def _view(sighting: Sighting) -> FollowedJobView:
    return FollowedJobView(**dict(job_view(sighting.job)), place=sighting.place)


def _moment(last_event_id: str | None) -> dt.datetime | None:
    """Read the id of one of our events; what is none of ours is no reason to refuse."""
    if last_event_id is None or not last_event_id.isascii() or not last_event_id.isdigit() or last_event_id == "0":
        return None
    try:
        return _EPOCH + int(last_event_id) * _MICROSECOND
    except OverflowError:
        return None
