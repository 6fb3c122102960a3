"""Jobs: hand a photo in now, look how far it is, collect the result. Nobody sees another's, whatever is public."""

import contextlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Path, Query, Request, Response, status
from fastapi.routing import APIRoute
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile

from controlplane.api.access import Owner, UseParts, Writer
from controlplane.api.callback_schemas import JobDetailView, job_detail
from controlplane.api.job_schemas import JobView, job_view
from controlplane.api.paging import Cursor, Page, cut, read_cursor, write_cursor
from controlplane.api.routing import ApiRoute
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.model import JobId, JobState, Order, Picture
from controlplane.jobs.photos import ending_of
from controlplane.jobs.tasks import read_task

log = structlog.get_logger(__name__)

JOBS: Final = "/v1/jobs"
MAX_UPLOADS: Final = 16
"""Photos that are read at once: each may take 32 MiB of memory."""
MAX_LISTED: Final = 200
_FIELDS: Final = ("task_id", "workflow_type", "size", "model", "priority", "image_url", "callback_url")
_PHOTO_FIELDS: Final = ("image", "file")

router = APIRouter(prefix=JOBS, tags=["jobs"], route_class=ApiRoute)

Which = Annotated[str, Path(description="Its id.", max_length=64)]

_TASK: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["workflow_type"],
    "properties": {
        "task_id": {"type": "string", "description": "The producer's own name for it: the same one again is no job."},
        "image_url": {"type": "string", "description": "Where the photo is, if it is not sent."},
        "workflow_type": {"type": "string", "examples": ["DDColor人物黑白修复.json"]},
        "parameters": {
            "type": "object",
            "properties": {"size": {"type": "integer", "examples": [680]}, "model": {"type": "string"}},
        },
        "priority": {"enum": ["normal", "vip"]},
        "callback_url": {"type": "string", "description": "Who is told of its end, signed with your secret for that."},
    },
}
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "format": "binary"},
        "task": {"type": "string", "description": "The task as JSON; or its fields, each on its own."},
        **{name: {"type": "string"} for name in _FIELDS},
    },
}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "image/*": {"schema": {"type": "string", "format": "binary", "description": "Fields in the query."}},
            "application/json": {"schema": _TASK},
        },
    }
}


async def submit_job(request: Request, response: Response, parts: UseParts, caller: Writer) -> JobView:
    """Take a photo in, to be coloured when a worker has room. The same idempotency key, or task_id, again is no job."""
    with _one_upload(request.app):
        order, photo = await _read(request)
        job = await parts.desk.submit(order, photo, owner=caller.name, key=caller.scoped_key)
    log.info("job.submitted", job=job.id, kind=job.kind, by=caller.name)
    response.headers["Location"] = f"{JOBS}/{job.id}"
    return job_view(job)


router.add_api_route(
    "",
    submit_job,
    methods=["POST"],
    status_code=status.HTTP_202_ACCEPTED,
    openapi_extra=_BODY,
    # A photo is not read into memory to be told from another one: the job knows which request made it.
    route_class_override=APIRoute,
)


class JobPage(Page[JobView]):
    """Jobs, newest first."""


@router.get("")
async def list_jobs(
    parts: UseParts,
    owner: Owner,
    state: Annotated[JobState | None, Query(description="Only those in this state.")] = None,
    before: Annotated[str | None, Query(description="Only those submitted before this one.", max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
    cursor: Cursor = None,
) -> JobPage:
    """List your jobs, newest first."""
    store = parts.desk.store
    if before is not None:
        await store.load_job(JobId(before), owner=owner)
    place = read_cursor(cursor, "jobs") or before
    asked = None if place is None else JobId(place)
    found = await store.list_jobs(owner, state=state, before=asked, limit=limit + 1)
    page, last = cut(found, limit)
    return JobPage(items=[job_view(job) for job in page], next=None if last is None else write_cursor("jobs", last.id))


@router.get("/{job}")
async def show_job(job: Which, parts: UseParts, owner: Owner) -> JobDetailView:
    """Show one of your jobs, and who was told of its end."""
    found = await parts.desk.store.load_job(JobId(job), owner=owner)
    return job_detail(found, await parts.callbacks.store.load_notices(found.id))


@router.get("/{job}/result", response_class=Response)
async def show_result(job: Which, parts: UseParts, owner: Owner) -> Response:
    """Return the picture of a job that is done."""
    found, content = await parts.desk.result(JobId(job), owner=owner)
    return _picture(found.id, found.result, content, {"X-Model-Version": found.version})


@router.get("/{job}/photo", response_class=Response)
async def show_photo(job: Which, parts: UseParts, owner: Owner) -> Response:
    """Return the photo of a job, as it is kept."""
    found, content = await parts.desk.photo(JobId(job), owner=owner)
    return _picture(f"{found.id}-photo", found.photo, content, {})


def _picture(name: str, picture: Picture | None, content: bytes, more: dict[str, str]) -> Response:
    media_type = "application/octet-stream" if picture is None else picture.media_type
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.{ending_of(media_type)}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
        **more,
    }
    return Response(content, media_type=media_type, headers=headers)


@router.post("/{job}/cancel", status_code=status.HTTP_202_ACCEPTED)
async def cancel_job(job: Which, parts: UseParts, caller: Writer) -> JobView:
    """End a job that waits or runs. What a worker may still make of it is thrown away."""
    cancelled = await parts.desk.store.cancel_job(JobId(job), owner=caller.name, now=parts.clock.now())
    log.info("job.cancelled", job=job, by=caller.name)
    return job_view(cancelled)


@router.delete("/{job}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_job(job: Which, parts: UseParts, caller: Writer) -> None:
    """Forget a job, in whatever state, with its photo and its result."""
    await parts.desk.delete(JobId(job), owner=caller.name)
    log.info("job.deleted", job=job, by=caller.name)


# -- what comes in -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_upload(app: FastAPI) -> Iterator[None]:
    if app.state.uploads >= MAX_UPLOADS:
        raise UnavailableError(f"{MAX_UPLOADS} photos are being read already; send this one again in a moment")
    app.state.uploads += 1
    try:
        yield
    finally:
        app.state.uploads -= 1


async def _read(request: Request) -> tuple[Order, bytes | None]:
    """Read a task and its photo, in whichever of the three ways they come."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request)
    if kind == "application/json":
        return read_task(_json("body", await request.body())), None
    if kind.startswith("image/") or kind == "application/octet-stream":
        return _order_of(dict(request.query_params)), await request.body()
    raise InvalidInputError(
        "Content-Type", f"{kind[:60]!r} is not read here", "send multipart/form-data, image/... or application/json"
    )


async def _read_form(request: Request) -> tuple[Order, bytes | None]:
    try:
        return await _read_parts(request)
    except FormParserError as exc:  # Starlette lets some of them through
        raise InvalidInputError("body", "is no form", "send valid multipart/form-data") from exc


async def _read_parts(request: Request) -> tuple[Order, bytes | None]:
    async with request.form(max_files=1, max_fields=len(_FIELDS) + 1) as form:
        photo = None
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name in _PHOTO_FIELDS:
                photo = await value.read()
            else:
                raise InvalidInputError(name[:60], "is not a file's field here", "send the photo as image")
    if "task" not in fields:
        return _order_of(fields), photo
    if len(fields) > 1:
        raise InvalidInputError("task", "is given beside its fields", "send one of them")
    return read_task(_json("task", fields["task"].encode())), photo


def _order_of(fields: dict[str, str]) -> Order:
    """Build the order that flat fields mean."""
    parameters = {name: fields.pop(name) for name in ("size", "model") if name in fields}
    return read_task({**fields, "parameters": parameters})


def _json(field: str, text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(field, "is not JSON", "send valid JSON in UTF-8") from exc
