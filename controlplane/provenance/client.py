"""The port `ModelSource` on a worker's ``GET /models``: what it has loaded, by checksum.

The answer is ``{"code_version": "…", "models": [{"name": "v1", "checksum": "sha256:…", …}]}``; keys that nobody here
knows are left out, so that workers may say more.
"""

import asyncio
import datetime as dt
from types import TracebackType
from typing import Annotated, Final, Self

import httpx
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from controlplane.errors import UnavailableError
from controlplane.traffic.model import CHECKSUM, MAX_MODEL_WORD
from controlplane.traffic.provenance import ServedModel

PATH: Final = "/models"
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_MODELS: Final = 64
MAX_CONNECTIONS: Final = 64

Word = Annotated[str, StringConstraints(max_length=MAX_MODEL_WORD)]


class _Model(BaseModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL_WORD)]
    checksum: Annotated[str, StringConstraints(pattern=f"^{CHECKSUM.pattern}$")]
    version: Word = ""
    family: Word = ""
    backend: Word = ""


class _Answer(BaseModel):
    models: Annotated[list[_Model], Field(max_length=MAX_MODELS)]
    code_version: Word = ""


class HttpModels:
    """Asks workers over plain HTTP, as Envoy's health checks do. Close it, or use it as a context manager.

    Args:
        transport: Another way to get there than a socket.
    """

    def __init__(self, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
            timeout=None,  # noqa: S113 - the whole answer has one, below
            trust_env=False,  # workers are next door, whatever proxies lead out
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, address: str, *, host: str, within: dt.timedelta) -> tuple[tuple[ServedModel, ...], str]:
        span = within.total_seconds()
        request = self._http.build_request("GET", f"http://{address}{PATH}", headers={"host": host})
        try:
            async with asyncio.timeout(span):
                response = await self._http.send(request, stream=True)
                try:
                    body = await _body(response)
                finally:
                    await response.aclose()
        except TimeoutError as exc:
            raise UnavailableError(f"it did not answer within {span:g} s") from exc
        except httpx.HTTPError as exc:
            raise UnavailableError(f"it cannot be reached ({_line(str(exc)) or type(exc).__name__})") from exc
        if response.status_code != httpx.codes.OK:
            raise UnavailableError(f"it answers GET {PATH} with {response.status_code}")
        try:
            answer = _Answer.model_validate_json(body)
        except ValidationError as exc:
            wrong = exc.errors(include_url=False)[0]
            where = ".".join(str(part) for part in wrong["loc"]) or "the answer"
            raise UnavailableError(f"its answer to GET {PATH} is not understood: {where}: {wrong['msg']}") from exc
        return tuple(ServedModel(**model.model_dump()) for model in answer.models), answer.code_version


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise UnavailableError(f"its answer to GET {PATH} is longer than {MAX_ANSWER_BYTES >> 10} KiB")
    return bytes(body)


def _line(words: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in words).split())[:200]
