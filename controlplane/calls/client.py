"""The port `Workers` over HTTP: a photo is posted to Envoy's listener, where weights and SLOs say who colours it."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import http
import json
import urllib.parse
from types import TracebackType
from typing import Final, Self

import httpx

from controlplane.errors import InvalidInputError
from controlplane.jobs.model import Away, Coloured, Failed, Job, JobKind, Refused

SETTING: Final = "HUESHIFT_JOBS_ENVOY"
MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
MAX_WORDS: Final = 300
LONGEST_PAUSE: Final = dt.timedelta(minutes=5)

_REFUSALS: Final = frozenset(
    {
        http.HTTPStatus.BAD_REQUEST,
        http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        http.HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""The photo's own fault, whichever worker looks at it."""
_BUSY: Final = frozenset(
    {
        http.HTTPStatus.NOT_FOUND,  # no route yet
        http.HTTPStatus.REQUEST_TIMEOUT,
        http.HTTPStatus.TOO_MANY_REQUESTS,
        http.HTTPStatus.SERVICE_UNAVAILABLE,
    }
)


class EnvoyCalls:
    """Calls one Envoy. Close it, or use it as a context manager.

    Args:
        url: Where its listener is.
        transport: Another way to get there than a socket.

    Raises:
        InvalidInputError: *url* is not such an address; the text names the setting.
    """

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInputError(SETTING, "is not an HTTP address", "write it like http://127.0.0.1:8080")
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),  # the dispatcher has its slots
            timeout=None,  # noqa: S113 - the whole call has one, its kind's
            trust_env=False,  # Envoy is next door, whatever proxies lead out
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def colour(self, job: Job, kind: JobKind, photo: bytes) -> Coloured | Refused | Away | Failed:
        headers = {
            **kind.headers,
            "content-type": job.photo.media_type if job.photo else "application/octet-stream",
            "accept": "image/png, image/jpeg;q=0.5",
            "x-user-id": urllib.parse.quote(job.owner),
            "x-job-id": job.id,
            "x-job-model": urllib.parse.quote(job.model),
            "x-priority": "interactive" if job.vip else "bulk",
            "x-hueshift-no-sample": "1",  # or a worker might still show the photo of a job that was deleted
        }
        try:
            async with (
                asyncio.timeout(kind.timeout.total_seconds()),
                self._http.stream(
                    "POST", f"{self._url}{kind.path}", params={"size": job.size}, content=photo, headers=headers
                ) as response,
            ):
                return _outcome(response, await _body(response))
        except TimeoutError:
            return Failed(f"no answer within {kind.timeout.total_seconds():g} s")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return Away("Envoy cannot be reached")
        except httpx.HTTPError as exc:
            return Failed(f"the connection broke ({type(exc).__name__})")


@dataclasses.dataclass(frozen=True, slots=True)
class _Body:
    """What was answered; *whole* is False when it was too much to read."""

    content: bytes
    whole: bool


async def _body(response: httpx.Response) -> _Body:
    read = bytearray()
    async for part in response.aiter_bytes():
        read += part
        if len(read) > MAX_ANSWER_BYTES:
            return _Body(b"", whole=False)
    return _Body(bytes(read), whole=True)


def _outcome(response: httpx.Response, body: _Body) -> Coloured | Refused | Away | Failed:
    version = response.headers.get("x-model-version", "")[:200]
    status = response.status_code
    if not body.whole:
        return Failed(f"version {version or 'unknown'} answered more than {MAX_ANSWER_BYTES} bytes", version)
    if status == http.HTTPStatus.OK:
        return Coloured(body.content, response.headers.get("content-type", ""), version)
    words = f"{status}{f' from version {version}' if version else ''}: {_words(body.content)}"
    if status in _REFUSALS:
        return Refused(words, version)
    if status in _BUSY:
        return Away(words, _pause(response.headers.get("retry-after")), version)
    return Failed(words, version)


def _words(content: bytes) -> str:
    """Return a worker's own sentence, or the beginning of whatever it said, on one line."""
    text = content[: 4 * MAX_WORDS].decode(errors="replace")
    with contextlib.suppress(ValueError):
        document = json.loads(content)
        if isinstance(document, dict):
            text = str(document.get("error") or document.get("detail") or text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line[:MAX_WORDS] or "no words"


def _pause(value: str | None) -> dt.timedelta | None:
    """Read Retry-After; only seconds, which is what workers and Envoy send."""
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return min(LONGEST_PAUSE, dt.timedelta(seconds=int(value[:6])))
