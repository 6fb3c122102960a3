"""What goes over the wire about jobs: the document of a kind, and the shapes of the answers."""

import datetime as dt
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, ValidationError

from controlplane.api.answering import View
from controlplane.api.problems import from_pydantic
from controlplane.api.reading import load_documents
from controlplane.api.schemas import EXAMPLES, Document, known_fields
from controlplane.api.values import Span
from controlplane.errors import InvalidInputError
from controlplane.jobs.model import DEFAULT_KEEP, Job, JobKind, Picture, removed_words

DEFAULT_TIMEOUT = dt.timedelta(seconds=300)
DEFAULT_ATTEMPTS = 5
DEAD = "dead"


class SizesDocument(Document):
    """The range of a task's ``size`` in pixels; *default* (else *max*) is meant where a task names none."""

    min: int
    max: int
    default: int | None = None


class KindRouteDocument(Document):
    """Where a kind's photos go, behind Envoy: as any live request, by these headers."""

    path: str = "/repair"
    headers: dict[str, str] = Field(default_factory=dict)


class KindDocument(Document):
    """One kind of task. *queue* is the kind's own unless it is named; *timeout* is an attempt's.

    *service* names the service that the route leads to, so that its rollouts cover these jobs; *keep* is how long photo
    and result stay after the end; *strip_metadata* removes places and names from photos, *label* writes into results
    which model coloured them.
    """

    kind: str
    workflow: str
    models: list[str]
    sizes: SizesDocument
    queue: str | None = None
    route: KindRouteDocument = KindRouteDocument()
    timeout: Span = DEFAULT_TIMEOUT
    attempts: Annotated[int, Field(description="How many may fail by themselves.")] = DEFAULT_ATTEMPTS
    service: str = ""
    keep: Span = DEFAULT_KEEP
    strip_metadata: bool = True
    label: bool = True


def kind_from(document: KindDocument) -> JobKind:
    """Build the core's value.

    Raises:
        InvalidInputError: A value is out of range.
    """
    sizes = document.sizes
    if document.queue == DEAD:
        raise InvalidInputError("queue", f"{DEAD!r} is where jobs lie that died", "choose another name")
    return JobKind(
        name=document.kind,
        workflow=document.workflow,
        models=tuple(document.models),
        min_px=sizes.min,
        max_px=sizes.max,
        default_px=sizes.max if sizes.default is None else sizes.default,
        queue=document.kind if document.queue is None else document.queue,
        path=document.route.path,
        headers={name.lower(): value for name, value in document.route.headers.items()},
        timeout=document.timeout,
        attempts=document.attempts,
        service=document.service,
        keep=document.keep,
        strip_metadata=document.strip_metadata,
        label=document.label,
    )


def kind_document(kind: JobKind) -> KindDocument:
    """Write a kind as its document, with nothing left out."""
    return KindDocument(
        kind=kind.name,
        workflow=kind.workflow,
        models=list(kind.models),
        sizes=SizesDocument(min=kind.min_px, max=kind.max_px, default=kind.default_px),
        queue=kind.queue,
        route=KindRouteDocument(path=kind.path, headers=dict(kind.headers)),
        timeout=kind.timeout,
        attempts=kind.attempts,
        service=kind.service,
        keep=kind.keep,
        strip_metadata=kind.strip_metadata,
        label=kind.label,
    )


def parse_kinds(text: str, *, source: str) -> Iterator[JobKind]:
    """Read one kind from each document of a YAML stream.

    Raises:
        InvalidInputError: One is wrong.
    """
    for given in load_documents(text, source, start="kind: NAME"):
        try:
            yield kind_from(KindDocument.model_validate(given))
        except ValidationError as exc:
            raise from_pydantic(exc.errors(include_url=False), given, known=known_fields(), examples=EXAMPLES) from exc


class KindAppliedView(View):
    """What applying a kind did."""

    kind: str
    changed: bool
    words: str


class PictureView(View):
    """A photo or a result: what it is, not where it lies."""

    media_type: str
    size_bytes: int
    sha256: str


class JobView(View):
    """One job, for its owner. *words* say why it failed last, or died; *version* is the one that made the result.

    *photo* is null until it was fetched, and with *result* once they were removed, of which *words* speak then.
    *wait_s* is the time from its submission to its first start, *run_s* from its last one to its end; its pictures go
    at *expires_at*.
    """

    id: str
    task_id: str
    kind: str
    workflow_type: str
    model: str
    size: int
    priority: str
    state: str
    attempts: int
    words: str
    version: str
    photo: PictureView | None
    result: PictureView | None
    submitted_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    wait_s: float | None
    run_s: float | None
    expires_at: dt.datetime | None


def job_view(job: Job) -> JobView:
    """Show a job to its owner."""
    return JobView(
        id=job.id,
        task_id=job.task_id,
        kind=job.kind,
        workflow_type=job.workflow,
        model=job.model,
        size=job.size,
        priority="vip" if job.vip else "normal",
        state=job.state.value,
        attempts=job.attempts,
        words=_words(job),
        version=job.version,
        photo=None if job.photo is None else _picture(job.photo),
        result=None if job.result is None else _picture(job.result),
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        wait_s=_seconds(job.submitted_at, job.first_started_at),
        run_s=_seconds(job.started_at, job.finished_at),
        expires_at=job.expires_at,
    )


def _words(job: Job) -> str:
    if job.swept_at is None:
        return job.words
    return "; ".join(filter(None, (job.words, removed_words(job.swept_at))))


def _picture(picture: Picture) -> PictureView:
    return PictureView(media_type=picture.media_type, size_bytes=picture.size_bytes, sha256=picture.sha256)


def _seconds(start: dt.datetime | None, end: dt.datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()
