"""Takes a photo out of a request without ever holding more of it than the limit allows."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Final

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from inference_worker.errors import BadRequestError, BodyTooLargeError, UnsupportedTypeError
from inference_worker.formats import is_read
from inference_worker.memory import Share

FIELDS: Final = ("image", "file")
UNTYPED: Final = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"})
"""Types that senders give when they do not know; `curl --data-binary` sends the last."""
FORM_OVERHEAD_BYTES: Final = 64 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """The picture's bytes and the media type its sender gave, empty if none."""

    data: bytes
    declared: str


async def read_upload(request: Request, max_bytes: int, share: Share) -> Upload:
    """Read a raw picture, or the field `image` or `file` of a form; what arrives is held in *share*.

    Raises:
        QueueFullError: All requests together hold as many bytes as the worker holds.
        BodyTooLargeError: More than *max_bytes*, by the announced length or by counting.
        UnsupportedTypeError: The declared type is no picture that the worker reads.
        BadRequestError: An empty body, or a form without the field.
    """
    declared = read_media_type(request.headers)
    if declared == "multipart/form-data":
        return await _read_form(request, max_bytes, share)
    _check_type(declared)
    _check_announced(request.headers, max_bytes)
    data = bytearray()
    async for chunk in _count(request.stream(), max_bytes, max_bytes, share):
        data += chunk
    return _check_content(bytes(data), declared)


def read_media_type(headers: Headers) -> str:
    """The media type without its parameters, in lower case; empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_type(declared: str) -> None:
    if not is_read(declared) and declared not in UNTYPED:
        raise UnsupportedTypeError(declared)


def _check_announced(headers: Headers, max_bytes: int) -> None:
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise BodyTooLargeError(max_bytes)


def _check_content(data: bytes, declared: str) -> Upload:
    if not data:
        raise BadRequestError("image: the body is empty; send a photo as the body or as form field 'image'")
    return Upload(data, declared if is_read(declared) else "")


async def _count(chunks: AsyncIterator[bytes], allowed: int, named: int, share: Share) -> AsyncIterator[bytes]:
    seen = 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > allowed:
            raise BodyTooLargeError(named)
        share.take(len(chunk))
        yield chunk


class _InMemoryParser(MultiPartParser):
    """Never spools to disk: the body is bounded already, and a disk would block the loop."""

    def __init__(self, headers: Headers, stream: AsyncIterator[bytes], *, max_bytes: int) -> None:
        super().__init__(headers, stream, max_files=4, max_fields=16)  # type: ignore[arg-type] # any async iterator will do
        self.spool_max_size = max_bytes + FORM_OVERHEAD_BYTES


async def _read_form(request: Request, max_bytes: int, share: Share) -> Upload:
    allowed = max_bytes + FORM_OVERHEAD_BYTES
    if request.headers.get("content-length", "").isdecimal() and int(request.headers["content-length"]) > allowed:
        raise BodyTooLargeError(max_bytes)
    chunks = _count(request.stream(), allowed, max_bytes, share)
    try:
        form = await _InMemoryParser(request.headers, chunks, max_bytes=max_bytes).parse()
    except (MultiPartException, KeyError) as exc:
        raise BadRequestError("image: the form is damaged; send multipart/form-data with a field 'image'") from exc
    try:
        part = next((form[name] for name in FIELDS if isinstance(form.get(name), UploadFile)), None)
        if not isinstance(part, UploadFile):
            raise BadRequestError("image: the form has no such file; send the photo as field 'image' or 'file'")
        declared = read_media_type(part.headers)
        _check_type(declared)
        data = await part.read()
    finally:
        await form.close()
    if len(data) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    return _check_content(data, declared)
