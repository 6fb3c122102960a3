"""What goes over the wire about owners of jobs: the document of an agreement, and what is used of it."""

from collections.abc import Iterator

from pydantic import ValidationError

from controlplane.api.answering import View
from controlplane.api.problems import from_pydantic
from controlplane.api.reading import load_documents
from controlplane.api.schemas import EXAMPLES, Document, known_fields
from controlplane.api.units import format_bytes
from controlplane.api.values import Size, Span
from controlplane.jobs.owners import JobOwner, JobUsage, Quotas


class OwnerDocument(Document):
    """What is agreed with an owner of jobs, the name of an API key; for what is left out the settings hold.

    *keep* is how long pictures stay after a job's end, where that is shorter than the kind's; *max_waiting* jobs may
    wait or run at once, *max_daily* be submitted within 24 hours, *max_bytes* of pictures be stored; *vip*: whether
    jobs may ask for priority vip.
    """

    owner: str
    keep: Span | None = None
    max_waiting: int | None = None
    max_daily: int | None = None
    max_bytes: Size | None = None
    vip: bool = True


def owner_from(document: OwnerDocument) -> JobOwner:
    """Build the core's value.

    Raises:
        InvalidInputError: A value is out of range.
    """
    return JobOwner(
        name=document.owner,
        keep=document.keep,
        max_waiting=document.max_waiting,
        max_daily=document.max_daily,
        max_bytes=document.max_bytes,
        vip=document.vip,
    )


def owner_document(owner: JobOwner) -> OwnerDocument:
    """Write an agreement as its document."""
    written = {
        "owner": owner.name,
        "keep": owner.keep,
        "max_waiting": owner.max_waiting,
        "max_daily": owner.max_daily,
        "max_bytes": None if owner.max_bytes is None else format_bytes(owner.max_bytes),
        "vip": owner.vip,
    }
    return OwnerDocument.model_validate(written)


def parse_owners(text: str, *, source: str) -> Iterator[JobOwner]:
    """Read one agreement from each document of a YAML stream.

    Raises:
        InvalidInputError: One is wrong.
    """
    for given in load_documents(text, source, start="owner: NAME"):
        try:
            yield owner_from(OwnerDocument.model_validate(given))
        except ValidationError as exc:
            raise from_pydantic(exc.errors(include_url=False), given, known=known_fields(), examples=EXAMPLES) from exc


class OwnerAppliedView(View):
    """What applying an agreement did."""

    owner: str
    changed: bool
    words: str


class QuotaView(View):
    """How much of a quota is used, and what it is."""

    used: int
    most: int


class OwnerView(View):
    """What holds for an owner, defaults included, and what is used of it. *agreed* is null where nothing is.

    *bytes* are of pictures that are stored, *daily* are jobs submitted within the last 24 hours.
    """

    owner: str
    agreed: OwnerDocument | None
    vip: bool
    waiting: QuotaView
    daily: QuotaView
    bytes: QuotaView


def owner_view(name: str, agreed: JobOwner | None, quotas: Quotas, usage: JobUsage) -> OwnerView:
    """Show what an owner has."""
    return OwnerView(
        owner=name,
        agreed=None if agreed is None else owner_document(agreed),
        vip=agreed is None or agreed.vip,
        waiting=QuotaView(used=usage.waiting, most=quotas.max_waiting),
        daily=QuotaView(used=usage.daily, most=quotas.max_daily),
        bytes=QuotaView(used=usage.bytes, most=quotas.max_bytes),
    )
