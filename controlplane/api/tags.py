"""Entity tags: what a client knows already is not sent again, and what it never saw is not overwritten.

A tag is ``"STATE"`` or ``"STATE-BODY"``. STATE names what a change replaces (a service's revision, or a digest of a
document) and is all that ``If-Match`` looks at; BODY tells answers apart that show more than that, for
``If-None-Match``.
"""

import dataclasses
import hashlib
import json
from typing import Annotated, Final, TypeAlias

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from controlplane.api.repeats import Handler
from controlplane.errors import PreconditionFailedError

ANY: Final = "*"
DIGEST_CHARS: Final = 20


def digest_of(document: BaseModel) -> str:
    """Return the state of what *document* describes."""
    text = json.dumps(document.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]


def set_state(response: Response, state: str) -> None:
    """Tell a client the state that it has read or written."""
    response.headers["ETag"] = f'"{state}"'


@dataclasses.dataclass(frozen=True, slots=True)
class Preconditions:
    """What a request makes a change depend on."""

    if_match: str | None = None
    if_none_match: str | None = None

    @property
    def are_none(self) -> bool:
        """Whether the change is to be made whatever there is."""
        return self.if_match is None and self.if_none_match is None

    def check(self, state: str | None, *, what: str) -> None:
        """Compare them with the present *state* of *what*, None where there is nothing yet.

        Raises:
            PreconditionFailedError: They do not hold.
        """
        known, unknown = self.if_match, self.if_none_match
        if unknown is not None and state is not None and _names(unknown, state):
            raise PreconditionFailedError(f"If-None-Match: there is {what} already; send If-Match to change it")
        if known is not None and state is None:
            raise PreconditionFailedError(f"If-Match: there is no {what}; leave the header out to make it")
        if known is not None and state is not None and not _names(known, state):
            raise PreconditionFailedError(
                f"If-Match: {what} has changed since you read it (it is {state!r} now); read it again and decide anew"
            )


def _read_conditions(
    if_match: Annotated[
        str | None,
        Header(description="Refuse the change unless this ETag is still the newest, or with * if there is nothing."),
    ] = None,
    if_none_match: Annotated[
        str | None, Header(description="With *: refuse the change if there is something already.")
    ] = None,
) -> Preconditions:
    return Preconditions(if_match, if_none_match)


Conditions: TypeAlias = Annotated[Preconditions, Depends(_read_conditions)]


def _names(header: str, state: str) -> bool:
    return header.strip() == ANY or state in _states(header)


def _states(header: str) -> frozenset[str]:
    """Return the states that a list of tags names; of a weak one too, since the state in it is exact."""
    tags = (tag.strip().removeprefix("W/") for tag in header.split(","))
    return frozenset(tag[1:-1].partition("-")[0] for tag in tags if len(tag) > 1 and tag[0] == tag[-1] == '"')


def unless_known(handler: Handler) -> Handler:
    """Let a route that reads JSON tag its answers, and say 304 to whoever has this one already."""

    async def answer(request: Request) -> Response:
        response = await handler(request)
        if response.status_code != 200 or response.headers.get("content-type") != "application/json":
            return response
        body = hashlib.sha256(response.body).hexdigest()[:DIGEST_CHARS]
        state = response.headers.get("etag", '""').strip('"')
        tag = f'"{state}-{body}"' if state else f'"{body}"'
        response.headers["ETag"] = tag
        known = request.headers.get("if-none-match", "")
        if tag not in {each.strip().removeprefix("W/") for each in known.split(",")}:
            return response
        return Response(status_code=304, headers={"ETag": tag})

    return answer
