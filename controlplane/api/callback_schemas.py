"""What goes over the wire about callbacks: their document, and answers without secrets, but for the one that is new."""

import datetime as dt
from collections.abc import Iterator

from pydantic import Field, ValidationError

from controlplane.api.answering import View
from controlplane.api.job_schemas import JobView, job_view
from controlplane.api.problems import from_pydantic
from controlplane.api.reading import load_documents
from controlplane.api.schemas import EXAMPLES, Document, known_fields
from controlplane.courier.addresses import shown
from controlplane.errors import InvalidInputError
from controlplane.jobs.callbacks import EVENTS, Callback, NoticeState
from controlplane.jobs.model import Job, JobState

ALL_EVENTS = tuple(event.value for event in EVENTS)


class CallbackDocument(Document):
    """Whom to tell: *address* is an http or https URL, or one of Apprise's (``mailto://…``, ``slack://…``).

    The callback ``task`` has none: it stands for the ``callback_url`` that tasks name. *secret* signs webhooks,
    ``whsec_`` and base64; without one it is made, and answered this once.
    """

    callback: str
    address: str = ""
    events: list[str] = Field(default_factory=lambda: list(ALL_EVENTS))
    secret: str | None = None

    @property
    def ends(self) -> frozenset[JobState]:
        """The events, as the core knows them. Raises InvalidInputError."""
        for event in self.events:
            if event not in ALL_EVENTS:
                raise InvalidInputError(
                    "events", f"{event[:40]!r} is not known", f"use some of: {', '.join(ALL_EVENTS)}"
                )
        return frozenset(JobState(event) for event in self.events)


def parse_callbacks(text: str, *, source: str) -> Iterator[CallbackDocument]:
    """Read one callback from each document of a YAML stream.

    Raises:
        InvalidInputError: One is wrong.
    """
    for given in load_documents(text, source, start="callback: NAME"):
        try:
            document = CallbackDocument.model_validate(given)
        except ValidationError as exc:
            raise from_pydantic(exc.errors(include_url=False), given, known=known_fields(), examples=EXAMPLES) from exc
        Callback(owner="", name=document.callback, address=document.address, events=document.ends)
        yield document


class CallbackView(View):
    """A callback: what of its address is no secret, and the ends that are told."""

    callback: str
    address: str
    events: list[str]
    signed: bool


def callback_view(callback: Callback) -> CallbackView:
    """Show a callback to its owner."""
    return CallbackView(
        callback=callback.name,
        address=shown(callback.address),
        events=[event.value for event in EVENTS if event in callback.events],
        signed=callback.is_signed,
    )


class CallbackAppliedView(View):
    """What applying a callback did. *secret* is there once, when it was made."""

    callback: str
    changed: bool
    secret: str | None
    words: str


class CallbackSecretView(View):
    """A new secret; the one before signs, too, for a day."""

    callback: str
    secret: str


class CallbackTestView(View):
    """What came of a test."""

    callback: str
    delivered: bool
    words: str


class NoticeView(View):
    """One receiver and how far it was told: *event* is its webhook-id; *next_at* when it is tried again."""

    callback: str
    host: str
    event: str
    state: str
    delivered: bool
    tries: int
    words: str
    next_at: dt.datetime | None
    ended_at: dt.datetime | None


class JobDetailView(JobView):
    """One job with everything about it."""

    callbacks: list[NoticeView]


def job_detail(job: Job, notices: tuple[NoticeState, ...]) -> JobDetailView:
    """Show a job to its owner, with who was told of its end."""
    return JobDetailView(**dict(job_view(job)), callbacks=[_notice_view(notice) for notice in notices])


def _notice_view(notice: NoticeState) -> NoticeView:
    return NoticeView(
        callback=notice.callback,
        host=notice.host,
        event=notice.event,
        state=notice.state.value,
        delivered=notice.delivered,
        tries=notice.tries,
        words=notice.words,
        next_at=notice.due_at if notice.ended_at is None else None,
        ended_at=notice.ended_at,
    )
