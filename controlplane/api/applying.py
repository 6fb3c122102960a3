"""Documents of any kind, applied together: what would be done, what was done, and the end of a service.

Each service is changed whole or not at all, and only if it is still what the answer was made from. What was applied is
remembered after that, so that whatever dies in between is done again by applying again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Query, Response, status
from pydantic import Field

from controlplane.api import rollouts
from controlplane.api.access import Caller, Parts, Reader, UseParts, Writer
from controlplane.api.answering import View
from controlplane.api.assembling import check_alone
from controlplane.api.composing import compose
from controlplane.api.composition import Action, Change, Composition, Given, Present, Wanted
from controlplane.api.envelopes import (
    AnyEnvelope,
    Name,
    as_json,
    is_bare,
    key_of,
    read_envelope,
    service_envelope,
    service_of,
)
from controlplane.api.paging import Cursor, Page, cut_by_name
from controlplane.api.permissions import OPERATES, OWNS, refuse
from controlplane.api.problems import Problems
from controlplane.api.requests import StartRequest, Why
from controlplane.api.routing import ApiRoute
from controlplane.api.schemas import Document
from controlplane.api.services import Name as PathName
from controlplane.api.services import expected_revision, refuse_unfit
from controlplane.api.tags import Conditions, set_state
from controlplane.auth.roles import EVERY, Principal
from controlplane.errors import ControlPlaneError, InvalidInputError
from controlplane.traffic.declared import Declaration, DocumentKey

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["documents"], route_class=ApiRoute)

MAX_DOCUMENTS: Final = 1000
MAX_LISTED: Final = 200


class ApplyRequest(Document):
    """Documents to apply together, and whose they are.

    With *prune*, what an earlier apply of the same *owner* brought and this one does not is taken out. *adopt* takes
    over documents of other owners. *dry_run* only says what would be done.
    """

    documents: list[dict[str, Any]] = Field(max_length=MAX_DOCUMENTS)
    owner: Name | None = None
    prune: bool = False
    adopt: bool = False
    dry_run: bool = False
    why: Why = ""


class ChangeView(View):
    """What became (or would become) of a document; *before* and *after* are the whole of it, None where there is none.

    A service shows everything that it is, with its versions, objectives and plan.
    """

    kind: str
    name: str
    service: str
    action: Action
    words: str
    notes: list[str]
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ApplyView(View):
    """Everything that was done, or would be: *changed* tells whether there is something."""

    changes: list[ChangeView]
    changed: bool
    refused: bool
    dry_run: bool
    etag: str = Field(description="Send it as If-Match to do exactly this and nothing else.")


class DeclarationView(View):
    """A document as it was applied last, and by whom."""

    kind: str
    name: str
    service: str
    owner: str
    generation: int
    by: str
    rollout: str
    document: dict[str, Any]


class DeclarationPage(Page[DeclarationView]):
    """Documents, by kind and name."""


@router.post("/documents")
async def apply_documents(
    body: ApplyRequest,
    response: Response,
    parts: UseParts,
    principal: Reader,
    caller: Writer,
    conditions: Conditions,
) -> ApplyView:
    """Apply documents. The same ones again change nothing; their order means nothing.

    With the ETag of a dry run as ``If-Match`` exactly that is done, or nothing.
    """
    if body.prune and not body.owner:
        raise InvalidInputError("owner", "is missing", "name whose documents these are, or leave prune out")
    given = _read(body.documents)
    present = await _load(parts)
    _check_rights(principal, given, present, body)
    composition = compose(given, present, Wanted(body.owner or "", body.prune, body.adopt))
    expected = {
        name: record.newest.number
        for name in (*composition.specs, *composition.deleted)
        if (record := present.services.get(name)) is not None
    }
    etag = _tag(composition, expected)
    set_state(response, etag)
    conditions.check(etag, what="what would be done")
    await refuse_unfit(parts, *composition.specs.values())
    refused: Mapping[DocumentKey, str] = {}
    if not body.dry_run:
        why = body.why or caller.why
        refused = await _Apply(parts, caller, why, body.owner or "", present, expected).run(composition)
    changes = [_view(change, _refusal(change, refused)) for change in composition.changes]
    return ApplyView(
        changes=changes,
        changed=any(change.action not in {"unchanged", "refused"} for change in changes),
        refused=bool(refused),
        dry_run=body.dry_run,
        etag=etag,
    )


@router.get("/documents")
async def list_documents(
    parts: UseParts,
    principal: Reader,
    owner: Annotated[str | None, Query(description="Only what this owner brought.", max_length=63)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
    cursor: Cursor = None,
) -> DeclarationPage:
    """List what was applied as documents and has not been taken out again, by kind and name."""
    seen = [
        row
        for row in await parts.store.load_declarations()
        if (owner is None or row.owner == owner) and principal.sees(row.service or EVERY)
    ]
    page, following = cut_by_name(
        seen, lambda row: f"{row.kind}/{row.name}", of="documents", cursor=cursor, limit=limit
    )
    items = [
        DeclarationView(
            kind=row.kind,
            name=row.name,
            service=row.service,
            owner=row.owner,
            generation=row.generation,
            by=row.by,
            rollout=row.rollout,
            document=dict(row.document),
        )
        for row in page
    ]
    return DeclarationPage(items=items, next=following)


@router.get("/services/{name}/document")
async def show_document(name: PathName, parts: UseParts, _: Reader) -> dict[str, Any]:
    """Show a service as one document, defaults included: applied again, it changes nothing."""
    record = await parts.store.load_service(name)
    rows = [row for row in await parts.store.load_declarations() if row.key == ("Service", name)]
    metadata: Mapping[str, Any] = rows[0].document["metadata"] if rows else {"name": name}
    return service_envelope(record.newest.spec, metadata)


@router.delete("/services/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_service(
    name: PathName,
    parts: UseParts,
    caller: Writer,
    conditions: Conditions,
) -> None:
    """Serve a service no more. Its history, revisions and rollouts are kept; refused while a rollout is active.

    Starts that wait are given up.
    """
    number = await expected_revision(parts, name, conditions)
    await parts.store.delete_service(name, expected=number, by=caller.name, why=caller.why, now=parts.clock.now())
    log.info("service.deleted", service=name, by=caller.name)


def _check_rights(principal: Principal, given: Sequence[Given], present: Present, body: ApplyRequest) -> None:
    """Refuse what is not for *principal* to apply, or to take out.

    Plans and sets of objectives are for all services, and so are they who change them.
    """
    for one in given:
        rule = OPERATES if one.envelope.kind == "Rollout" else OWNS
        refuse(principal, rule, service=service_of(one.envelope) or EVERY)
    for row in present.declared.values():
        if body.prune and row.owner == body.owner:
            refuse(principal, OWNS, service=row.service or EVERY)


def _read(documents: Sequence[Mapping[str, Any]]) -> list[Given]:
    problems = Problems()
    given = []
    for place, content in enumerate(documents, start=1):
        field = f"documents[{place}]"
        envelope = problems.attempt_all(_reader(content), _under(field))
        if envelope is not None:
            given.append(Given(envelope, field, is_bare(content)))
    problems.raise_any()
    return given


def _reader(content: Mapping[str, Any]) -> Callable[[], AnyEnvelope]:
    def read() -> AnyEnvelope:
        envelope = read_envelope(content)
        check_alone(envelope)
        return envelope

    return read


def _under(field: str) -> Callable[[str], str]:
    return lambda inner: field if inner == "document" else f"{field}.{inner}"


async def _load(parts: Parts) -> Present:
    return Present(
        declared={row.key: row for row in await parts.store.load_declarations()},
        services={record.name: record for record in await parts.store.list_services()},
        active={rollout.service: rollout for rollout in await parts.store.load_active()},
    )


def _tag(composition: Composition, expected: Mapping[str, int]) -> str:
    facts = [[c.kind, c.name, c.action, list(c.notes), c.before, c.after] for c in composition.changes]
    text = json.dumps([facts, sorted(expected.items())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _refusal(change: Change, refused: Mapping[DocumentKey, str]) -> str:
    return refused.get((change.kind, change.name)) or refused.get(("Service", change.service), "")


def _view(change: Change, refusal: str) -> ChangeView:
    action: Action = "refused" if refusal and change.action != "unchanged" else change.action
    words = f"{change.kind} {change.name} {action}" + (f": {refusal}" if action == "refused" else "")
    return ChangeView(
        kind=change.kind,
        name=change.name,
        service=change.service,
        action=action,
        words=words,
        notes=list(change.notes),
        before=change.before,
        after=change.after,
    )


class _Apply:
    """Does what a composition says, one service after the other."""

    def __init__(
        self, parts: Parts, caller: Caller, why: str, owner: str, present: Present, expected: Mapping[str, int]
    ) -> None:
        self._parts = parts
        self._caller = caller
        self._why = why
        self._owner = owner
        self._present = present
        self._expected = expected
        self._refused: dict[DocumentKey, str] = {}
        self._started: dict[DocumentKey, str] = {}

    async def run(self, composition: Composition) -> Mapping[DocumentKey, str]:
        """Return what was refused: what depends on it was left out, everything else was done."""
        store, clock, by = self._parts.store, self._parts.clock, self._caller.name
        for name, spec in sorted(composition.specs.items()):
            number = self._expected.get(name, 0)
            try:
                await store.apply_declared(spec, expected=number, by=by, why=self._why, now=clock.now())
            except ControlPlaneError as refusal:
                self._refused["Service", name] = str(refusal)
            else:
                log.info("service.applied", service=name, by=by)
        for start in composition.starts:
            if ("Service", start.service) not in self._refused:
                await self._start(start.service, start.key, start.request)
        for name in composition.deleted:
            try:
                await store.delete_service(name, expected=self._expected[name], by=by, why=self._why, now=clock.now())
            except ControlPlaneError as refusal:
                self._refused["Service", name] = str(refusal)
            else:
                log.info("service.deleted", service=name, by=by)
        done = [one for one in composition.kept if self._is_done(key_of(one), service_of(one))]
        kept = [row for row in map(self._row, done) if self._present.declared.get(row.key) != row]
        removed = {key for key in composition.removed if self._is_done(key, self._present.declared[key].service)}
        if kept or removed:
            await store.save_declarations(kept, removed=removed)
        return self._refused

    def _is_done(self, key: DocumentKey, service: str) -> bool:
        return not {key, ("Service", service)} & self._refused.keys()

    async def _start(self, service: str, key: DocumentKey, request: StartRequest) -> None:
        row = self._present.declared.get(key)
        said = json.dumps(request.model_dump(mode="json"), sort_keys=True)
        digest = hashlib.sha256(f"{key}{row.generation if row else 0}{said}".encode()).hexdigest()[:32]
        again = Caller(self._caller.name, self._why, f"document-{digest}")
        try:
            rollout = await rollouts.start_rollout(service, request, self._parts, again)
        except ControlPlaneError as refusal:
            self._refused[key] = str(refusal)
        else:
            self._started[key] = rollout.id

    def _row(self, envelope: AnyEnvelope) -> Declaration:
        key = key_of(envelope)
        before = self._present.declared.get(key)
        document = as_json(envelope)
        owner = self._owner or (before.owner if before else "")
        if before is not None and before.document == document:
            if before.owner == owner:
                return before
            generation = before.generation
        else:
            generation = before.generation + 1 if before else 1
        return Declaration(
            kind=key[0],
            name=key[1],
            service=service_of(envelope),
            owner=owner,
            document=document,
            generation=generation,
            by=self._caller.name,
            at=self._parts.clock.now(),
            rollout=self._started.get(key, before.rollout if before else ""),
        )
