"""The port `GateSource`: a signed CloudEvent to a gate's address, and a short answer in JSON.

Addresses are checked as those of webhooks are. Of the answer only a decision and a reason are read, bounded.
"""

import asyncio
import datetime as dt
import json
import ssl
from collections.abc import Collection
from typing import Final

import httpcore

from controlplane.calls.webhooks import CONNECT_S, Webhooks, signed_headers
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.rollout.gate import Decision

MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_REASON_CHARS: Final = 500
_SAID: Final = {each.value: each for each in Decision if each is not Decision.SILENT}
_FORM: Final = 'answered no {"decision": "open", "closed" or "abort"}'


class GateCalls(Webhooks):
    """Asks gates. Close it, or use it as a context manager."""

    async def ask(
        self, url: str, body: bytes, *, event: str, secrets: Collection[str], within: dt.timedelta, now: dt.datetime
    ) -> tuple[Decision, str]:
        seconds = within.total_seconds()
        try:
            self.check(url)  # what was allowed once may not be any more
            async with asyncio.timeout(seconds):
                status, answer = await self._exchange(url, body, event, tuple(secrets), seconds, now)
        except (InvalidInputError, UnavailableError) as exc:
            return Decision.SILENT, str(exc)
        except TimeoutError:
            return Decision.SILENT, f"no answer within {seconds:g} s"
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.UnsupportedProtocol,
            ssl.SSLError,
        ) as exc:
            return Decision.SILENT, f"its host does not answer ({type(exc).__name__})"
        return read_answer(status, answer)

    async def _exchange(
        self, url: str, body: bytes, event: str, secrets: tuple[str, ...], seconds: float, now: dt.datetime
    ) -> tuple[int, bytes]:
        headers = [*signed_headers(event, now, body, secrets), ("accept", "application/json")]
        spans = {"connect": CONNECT_S, "read": seconds, "write": seconds, "pool": seconds}
        async with self.pool.stream(
            "POST", url, headers=headers, content=body, extensions={"timeout": spans}
        ) as response:
            read = bytearray()
            async for part in response.aiter_stream():
                read += part
                if len(read) > MAX_ANSWER_BYTES:
                    raise UnavailableError(f"answered more than {MAX_ANSWER_BYTES // 1024} KiB")
            return response.status, bytes(read)


def read_answer(status: int, answer: bytes) -> tuple[Decision, str]:
    """Read what a gate answered; what cannot be understood keeps the rollout waiting."""
    if status != 200:
        return Decision.SILENT, f"answered {status}"
    try:
        given = json.loads(answer)
    except (ValueError, RecursionError):
        return Decision.SILENT, _FORM
    decision = given.get("decision") if isinstance(given, dict) else None
    if not isinstance(decision, str) or decision not in _SAID:
        return Decision.SILENT, _FORM
    reason = given.get("reason")
    words = " ".join(reason.split()) if isinstance(reason, str) else ""
    return _SAID[decision], "".join(char for char in words if char.isprintable())[:MAX_REASON_CHARS]
