"""ComfyUI's HTTP API, one method per call that is needed; transport failures become `UnreachableError`."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx

from inference_worker.comfyui.address import Address
from inference_worker.comfyui.errors import PromptLostError, UnreachableError, UnusableAnswerError, shorten
from inference_worker.comfyui.nodetypes import NodeType, read_node_type
from inference_worker.comfyui.tracking import Patience
from inference_worker.comfyui.wire import (
    File,
    Graph,
    Sighting,
    read_history,
    read_queue,
    read_refusal,
)

MAX_JSON_BYTES: Final = 16 * 1024 * 1024
MAX_PICTURE_BYTES: Final = 64 * 1024 * 1024
GATEWAY_TROUBLE: Final = frozenset({502, 503, 504})
"""A proxy in front says that ComfyUI is not there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """Which ComfyUI this is; *number* is None if it does not say."""

    number: tuple[int, ...] | None
    text: str


class Client:
    """Talks to one ComfyUI; every method may raise `UnreachableError` and `UnusableAnswerError`."""

    def __init__(self, address: Address, *, client_id: str, patience: Patience) -> None:
        """Prepare; nothing is connected before the first call."""
        self._client_id = client_id
        self._http = httpx.AsyncClient(
            base_url=f"{address.http_url}/",
            verify=address.scheme == "https",  # certificates of authorities take long to load, and are for https alone
            timeout=httpx.Timeout(patience.call_s, connect=patience.connect_s),
            follow_redirects=False,  # a redirect could lead out of the allowed networks
            trust_env=False,  # as could a proxy
        )

    async def close(self) -> None:
        """Let go of all connections."""
        await self._http.aclose()

    async def read_release(self) -> Release:
        """The health check, and the version."""
        body = await self._get_json("system_stats")
        system = body.get("system") if isinstance(body, dict) else None
        text = shorten(system.get("comfyui_version") if isinstance(system, dict) else None, 40)
        found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
        return Release(tuple(map(int, found.groups())) if found else None, text or "unknown")

    async def read_node_type(self, name: str) -> NodeType | None:
        """A node type, or None if it is not installed."""
        return read_node_type(name, await self._get_json(f"object_info/{quote(name, safe='')}"))

    async def upload(self, name: str, data: bytes) -> str:
        """Put a picture into the input folder, over one of the same name; returns what a LoadImage node calls it."""
        files = {"image": (name, data, "image/png")}
        _, body = await self._call("POST", "upload/image", files=files, data={"type": "input", "overwrite": "true"})
        answer = _read_json("upload/image", body)
        if not isinstance(answer, dict) or not isinstance(stored := answer.get("name"), str):
            raise UnusableAnswerError("comfyui: /upload/image answered without a name")
        folder = answer.get("subfolder")
        return f"{folder}/{stored}" if isinstance(folder, str) and folder else stored

    async def send(self, prompt_id: str, graph: Graph) -> None:
        """Queue a prompt under our own id; whether it arrived is not known after an `UnreachableError`.

        Raises:
            RefusedError: The graph does not pass ComfyUI's checks.
        """
        question = {"prompt": graph, "client_id": self._client_id, "prompt_id": prompt_id}
        status, body = await self._call("POST", "prompt", json=question, passed=(400,))
        answer = _read_json("prompt", body)
        if status == 400:
            raise read_refusal(answer)
        given = answer.get("prompt_id") if isinstance(answer, dict) else None
        if given != prompt_id:
            if isinstance(given, str):
                await self.delete([given])
            raise UnusableAnswerError("comfyui: it gives prompts ids of its own; update it to 0.3.64 or later")

    async def find(self, prompt_id: str) -> Sighting:
        """Where the prompt is. The queue first: a prompt leaves it in the same step in which history gets it."""
        queued = read_queue(await self._get_json("queue"), prompt_id)
        if queued is not None:
            return queued
        return read_history(await self._get_json(f"history/{quote(prompt_id, safe='')}"), prompt_id)

    async def view(self, file: File) -> bytes:
        """A picture's bytes.

        Raises:
            PromptLostError: The file is gone, as after somebody cleared the folder.
        """
        where = {"filename": file.name, "subfolder": file.subfolder, "type": file.kind}
        status, body = await self._call("GET", "view", params=where, passed=(404,), limit=MAX_PICTURE_BYTES)
        if status == 404:
            raise PromptLostError
        return body

    async def delete(self, prompt_ids: Sequence[str]) -> None:
        """Take prompts out of the queue; those that run already are left alone, and nobody is told."""
        await self._call("POST", "queue", json={"delete": list(prompt_ids)})

    async def interrupt(self, prompt_id: str) -> None:
        """Stop this prompt, if it is the one that runs; never without an id, which would stop anybody's."""
        if not prompt_id:
            raise ValueError("an interrupt without an id would stop whatever runs")
        await self._call("POST", "interrupt", json={"prompt_id": prompt_id})

    async def _get_json(self, path: str) -> Any:
        _, body = await self._call("GET", path)
        return _read_json(path, body)

    async def _call(
        self, method: str, path: str, *, passed: Sequence[int] = (), limit: int = MAX_JSON_BYTES, **content: Any
    ) -> tuple[int, bytes]:
        data = bytearray()
        try:
            async with self._http.stream(method, path, **content) as answer:
                async for chunk in answer.aiter_bytes():
                    data += chunk
                    if len(data) > limit:
                        raise UnusableAnswerError(f"comfyui: /{path} answered more than {limit} bytes")
        except (httpx.TransportError, httpx.DecodingError) as exc:
            raise UnreachableError(f"comfyui: no answer to /{path} ({type(exc).__name__})") from exc
        status = answer.status_code
        if status in GATEWAY_TROUBLE:
            raise UnreachableError(f"comfyui: /{path} answered {status}")
        if status != 200 and status not in passed:  # malformed JSON gets a 500 of plain text
            raise UnusableAnswerError(f"comfyui: /{path} answered {status}")
        return status, bytes(data)


def _read_json(path: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as exc:
        raise UnusableAnswerError(f"comfyui: /{path} answered something other than JSON") from exc
