"""Requests that may be sent twice and are done once: the second is answered as the first one was.

A client that hears nothing cannot know whether its request arrived. With the header ``Idempotency-Key`` it may simply
send it again: the key and the answer are rows, so that whichever replica gets the copy, it answers the same. Only what
succeeded is kept, and for a day: what was refused has changed nothing and is decided anew. Photos are not taken in
here: a job is its own record of the request that made it.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from fastapi import Request, Response

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.ports import AnswerStore, GivenAnswer

HEADER: Final = "Idempotency-Key"
MAX_KEY_CHARS: Final = 128
_KEPT_HEADERS: Final = ("content-type", "etag", "location")


Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]


class _Answered(Exception):  # noqa: N818 - no error: the way past a route to the answer it gave before
    def __init__(self, answer: GivenAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class _Claim:
    """One request's right to be the one that is done; nothing until its caller is known and `take` was called."""

    def __init__(self) -> None:
        self._held: tuple[AnswerStore, str, dt.datetime] | None = None

    async def take(self, request: Request, store: AnswerStore, key: str, *, now: dt.datetime) -> None:
        what = f"{request.method} {request.url.path}"
        about = hashlib.sha256("\n".join((what, request.url.query, request.headers.get("if-match", ""))).encode())
        about.update(await request.body())
        given = await store.claim_answer(key, request=what, digest=about.hexdigest(), now=now)
        if given is not None:
            raise _Answered(given)
        self._held = store, key, now

    async def settle(self, response: Response | None) -> None:
        """Keep the answer if it is one, else give the key back."""
        if self._held is None:
            return
        store, key, at = self._held
        if response is None or not 200 <= response.status_code < 300:
            await store.drop_claim(key, claimed_at=at)
            return
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        answer = GivenAnswer(response.status_code, headers, bytes(response.body))
        await store.keep_answer(key, answer, claimed_at=at)


def once(handler: Handler) -> Handler:
    """Let a route that changes something do so once per idempotency key."""

    async def answer(request: Request) -> Response:
        claim = request.state.claim = _Claim()
        response = None
        try:
            response = await handler(request)
        except _Answered as exc:
            return Response(exc.answer.body, exc.answer.status, dict(exc.answer.headers))
        finally:
            await claim.settle(response)
        return response

    return answer


def check_key(key: str | None) -> None:
    """Refuse what is no idempotency key.

    Raises:
        InvalidInputError: It is empty, too long, or of characters that cannot be seen.
    """
    if key is None:
        return
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise InvalidInputError(HEADER, f"has {len(key)} characters", f"use 1 to {MAX_KEY_CHARS}")
    if not (key.isascii() and key.isprintable()):
        raise InvalidInputError(HEADER, "holds characters that are not plain", "use visible ASCII characters")


async def claim_once(request: Request, key: str | None, *, store: AnswerStore, clock: Clock) -> None:
    """See that a request with the idempotency *key*, which its caller's name is part of, is done once.

    Raises:
        ConflictError: The key was used for another request.
        UnavailableError: A copy of this one is being answered.
    """
    claim: _Claim | None = getattr(request.state, "claim", None)
    if claim is not None and key is not None:
        await claim.take(request, store, key, now=clock.now())
