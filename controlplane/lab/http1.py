"""Where one HTTP/1.1 message ends and the next begins: all that a load generator and a stub server need to know."""

import dataclasses

_HEAD_END = b"\r\n\r\n"


class FramingError(Exception):
    """The bytes are not an HTTP/1.1 message whose end can be found."""


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A whole message: *head* ends before the empty line, *body* has its chunks joined."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """The status code of a response."""
        try:
            return int(self.head[9:12])
        except ValueError as exc:
            raise FramingError(f"no status code in {self.head[:20]!r}") from exc


def header(head_lower: bytes, name: bytes) -> bytes | None:
    """Return a header's value; *head_lower* is the head in lower case, and so is *name*."""
    at = head_lower.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head_lower.find(b"\r\n", start)
    return head_lower[start : end if end >= 0 else None].strip()


class Framer:
    """Bytes in, messages out. One per direction of a connection; a message without a length is refused.

    Args:
        of_requests: A request without a length has no body; a response without one would end with the connection,
            which no server here does.
    """

    __slots__ = ("_buffer", "_of_requests")

    def __init__(self, *, of_requests: bool) -> None:
        self._buffer = b""
        self._of_requests = of_requests

    @property
    def is_empty(self) -> bool:
        """Whether the last message ended exactly where the bytes did."""
        return not self._buffer

    def feed(self, data: bytes) -> Message | None:
        """Take *data*; return a message if one is complete. Feed b"" to ask for the next one.

        Raises:
            FramingError: The message's end cannot be found.
        """
        buffer = self._buffer + data if self._buffer else data
        while True:
            message, used = self._cut(buffer)
            if message is None or self._of_requests or not 100 <= message.status < 200:
                self._buffer = buffer[used:]
                return message
            buffer = buffer[used:]  # an interim response; the real one follows

    def _cut(self, buffer: bytes) -> tuple[Message | None, int]:
        head_end = buffer.find(_HEAD_END)
        if head_end < 0:
            return None, 0
        head = buffer[:head_end]
        start = head_end + 4
        lower = head.lower()
        length = header(lower, b"content-length")
        if length is not None:
            if not length.isdigit():
                raise FramingError(f"content-length is {length!r}")
            end = start + int(length)
            return (Message(head, buffer[start:end]), end) if len(buffer) >= end else (None, 0)
        if header(lower, b"transfer-encoding") == b"chunked":
            return _cut_chunked(head, buffer, start)
        if self._of_requests or head[9:12] in {b"204", b"304"} or head[9:10] == b"1":
            return Message(head, b""), start
        raise FramingError("a response without a length")


def _cut_chunked(head: bytes, buffer: bytes, start: int) -> tuple[Message | None, int]:
    parts: list[bytes] = []
    while True:
        line_end = buffer.find(b"\r\n", start)
        if line_end < 0:
            return None, 0
        try:
            size = int(buffer[start:line_end].split(b";", 1)[0], 16)
        except ValueError as exc:
            raise FramingError(f"chunk size is {buffer[start:line_end][:20]!r}") from exc
        start = line_end + 2
        if size == 0:
            break
        if len(buffer) < start + size + 2:
            return None, 0
        parts.append(buffer[start : start + size])
        start += size + 2
    while True:  # trailers, up to an empty line
        line_end = buffer.find(b"\r\n", start)
        if line_end < 0:
            return None, 0
        start, was_empty = line_end + 2, line_end == start
        if was_empty:
            return Message(head, b"".join(parts)), start
