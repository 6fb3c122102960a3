"""A stand-in for ComfyUI's API: what 0.3.64 was seen to do, each trap to be switched on.

It listens on loopback, or on a stepped loop's network, keeps queue, history and files in memory, executes one prompt at
a time and can be killed and started again. Nothing in it waits for time: what is slow waits to be let go by the test.
"""

import asyncio
import contextlib
import copy
import hashlib
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tests.comfyui_nodes import COLORIZERS, NODE_TYPES, TRACEBACK, draw_graph, draw_photo, find_refusal, paint
from tests.comfyui_quirks import Item, Quirks
from tests.stepping import SteppedLoop


class FakeComfyUI:
    """One ComfyUI; `start` and `kill` it as often as you like, on one port."""

    def __init__(self) -> None:
        self.quirks = Quirks()
        self.node_types = copy.deepcopy(NODE_TYPES)
        self.calls: list[tuple[str, Any]] = []
        """Path and body of every POST."""
        self.life = 0
        """How often it was started."""
        self.taken: list[tuple[int, str]] = []
        """Life and id of every prompt that was queued."""
        self.executions: list[tuple[int, str]] = []
        """Life and id of every prompt whose colorizing node ran, in order."""
        self.most_queued = 0
        """The most prompts that were inside at once, strangers' included."""
        self.inputs: dict[str, bytes] = {}
        self.outputs: dict[str, bytes] = {}
        self.forgetful_uploads = 0
        """So many uploads are answered, and their files are gone at once."""
        self.is_up = False
        self.connections = 0
        self.at_work = asyncio.Event()
        """Set whenever a colorizing node begins."""
        self.go = asyncio.Event()
        self.go.set()
        self.go_history = asyncio.Event()
        self.go_history.set()
        self.go_stats = asyncio.Event()
        """Off: whoever checks the connection waits."""
        self.go_stats.set()
        self.go_view = asyncio.Event()
        """Off: whoever fetches a picture waits."""
        self.go_view.set()
        self.port = 0
        self._place: socket.socket | None = None
        self._forget()

    def _forget(self) -> None:
        """What a restart loses."""
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.in_node: str | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.sockets: dict[str, WebSocket] = {}
        self._cache: dict[str, dict[str, Any]] = {}
        self._interrupted: str | None = None
        self._number = 0
        self._arrived = asyncio.Event()

    # --- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, with an empty queue, an empty history and an empty folder for what PreviewImage writes."""
        self._forget()
        self.outputs = {place: data for place, data in self.outputs.items() if not place.startswith("temp/")}
        self.life += 1
        config = uvicorn.Config(
            self._build_app(),
            http="h11",
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=75,  # as aiohttp's, which the real one has
        )
        config.load()
        self._state = ServerState()
        self._end = await self._listen(lambda: H11Protocol(config=config, server_state=self._state, app_state={}))
        self._executor = asyncio.ensure_future(self._execute_all())
        self.is_up = True

    async def _listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> Callable[[], None]:
        """Take connections; returns what ends that."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, SteppedLoop):
            self.port, end = loop.listen(self.port, factory)
            return end
        if self._place is None:  # bound all the time, so that nobody else gets the port between two lives
            self._place = socket.socket()
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._place.bind(("127.0.0.1", 0))
            self.port = self._place.getsockname()[1]
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each answer waits 40 ms
        return (await loop.create_server(factory, sock=listener)).close

    async def kill(self) -> None:
        """Die as a process does: connections are cut, queue and history are gone; files stay on the disk."""
        self.is_up = False
        self._end()
        self.cut_all()
        self._executor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._executor
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.wait(self._state.tasks) if self._state.tasks else None
        self._forget()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def cut_all(self) -> None:
        """Cut every connection; the process goes on."""
        for connection in list(self._state.connections):
            connection.transport.abort()

    def hold(self) -> None:
        """The colorizing node does not end until `release`."""
        self.go.clear()

    def release(self) -> None:
        self.go.set()

    async def progress(self, value: int, most: int) -> None:
        """What runs tells its client how far its node is."""
        assert self.running is not None
        data = {"value": value, "max": most, "prompt_id": self.running.prompt_id, "node": self.in_node}
        await self._send(self.running.client_id, {"type": "progress", "data": data})

    def publish(self) -> None:
        """Let the history have what has ended."""
        self.go_history.set()

    async def chatter(self, frames: int) -> None:
        """Send every client so many frames that concern no prompt."""
        for _ in range(frames):
            await self._broadcast()

    def posted(self, path: str) -> list[Any]:
        return [body for called, body in self.calls if called == path]

    @property
    def executed(self) -> list[str]:
        """Prompts whose colorizing node ran, in order, in any life."""
        return [prompt_id for _, prompt_id in self.executions]

    def find_pending(self) -> list[str]:
        return [item.prompt_id for item in self.pending]

    def add_stranger(self, prompt_id: str) -> None:
        """Somebody else's prompt."""
        self.inputs.setdefault("photo.png", draw_photo())
        self._enqueue(Item(0, prompt_id, draw_graph("photo.png"), "stranger"))

    # --- HTTP ---------------------------------------------------------------------------------

    def _build_app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/system_stats", self._show_stats),
                Route("/object_info/{name:path}", self._show_type),
                Route("/upload/image", self._take_image, methods=["POST"]),
                Route("/prompt", self._take_prompt, methods=["POST"]),
                Route("/queue", self._show_queue),
                Route("/queue", self._change_queue, methods=["POST"]),
                Route("/history/{prompt_id}", self._show_history),
                Route("/interrupt", self._interrupt, methods=["POST"]),
                Route("/view", self._show_file),
                WebSocketRoute("/ws", self._hold_socket),
            ]
        )

    async def _show_stats(self, _: Request) -> Response:
        await self.go_stats.wait()
        system = {"comfyui_version": self.quirks.version, "ram_total": 1, "ram_free": 1, "argv": ["main.py"]}
        return JSONResponse({"system": system, "devices": [{"name": "cpu", "type": "cpu", "vram_free": 1}]})

    async def _show_type(self, request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse({name: self.node_types[name]} if name in self.node_types else {})

    async def _take_image(self, request: Request) -> Response:
        async with request.form() as form:
            image = form["image"]
            assert not isinstance(image, str)
            assert (form["type"], form["overwrite"]) == ("input", "true")
            self.inputs[image.filename or ""] = await image.read()
            if self.forgetful_uploads:
                self.forgetful_uploads -= 1
                self.inputs.clear()
            self._note("/upload/image", image.filename)
            return JSONResponse({"name": image.filename, "subfolder": "", "type": "input"})

    async def _take_prompt(self, request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError:
            body = None
        self._note("/prompt", body)
        if body is None or self.quirks.plain_500:
            return PlainTextResponse("500 Internal Server Error\n\nServer got itself in trouble", 500)
        refusal = find_refusal(body, self.node_types, self.inputs, is_raising=self.quirks.inner_validation)
        if refusal is not None:
            return JSONResponse(refusal, 400)
        prompt_id = str(body.get("prompt_id") or uuid.uuid4()) if self.quirks.own_ids else str(uuid.uuid4())
        self._number += 1
        self._enqueue(Item(self._number, prompt_id, body["prompt"], body.get("client_id", "")))
        if self.quirks.lost_answers:
            self.quirks.lost_answers -= 1
            self.cut_all()
        return JSONResponse({"prompt_id": prompt_id, "number": self._number, "node_errors": {}})

    async def _show_queue(self, _: Request) -> Response:
        running = [self.running.row] if self.running else []
        return JSONResponse({"queue_running": running, "queue_pending": [item.row for item in self.pending]})

    async def _change_queue(self, request: Request) -> Response:
        body = await request.json()
        self._note("/queue", body)
        self.delete(*body.get("delete", []))
        return Response()

    def delete(self, *prompt_ids: str) -> None:
        """Take pending prompts away; their client is told nothing, and no history is left."""
        self.pending = [item for item in self.pending if item.prompt_id not in prompt_ids]

    async def _show_history(self, request: Request) -> Response:
        prompt_id = request.path_params["prompt_id"]
        return JSONResponse({prompt_id: self.history[prompt_id]} if prompt_id in self.history else {})

    async def _interrupt(self, request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw) if raw else {}
        self._note("/interrupt", body)
        self.interrupt(body.get("prompt_id"))
        return Response()

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Mark what runs, without an id whoever's it is; seen only before the next node."""
        if self.running and prompt_id in {None, self.running.prompt_id}:
            self._interrupted = self.running.prompt_id

    async def _show_file(self, request: Request) -> Response:
        await self.go_view.wait()
        found = self.outputs.get(f"{request.query_params['type']}/{request.query_params['filename']}")
        return Response(found, media_type="image/png") if found is not None else Response(status_code=404)

    async def _hold_socket(self, ws: WebSocket) -> None:
        client_id = ws.query_params["clientId"]
        await ws.accept()
        self.sockets[client_id] = ws
        self.connections += 1
        with contextlib.suppress(WebSocketDisconnect):
            await ws.send_json({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}})
            if self.in_node:
                await ws.send_json({"type": "executing", "data": {"node": self.in_node}})
            while True:
                await ws.receive_text()
        self.sockets.pop(client_id, None)  # even if a newer one has taken its place: that one is sent nothing then

    # --- execution --------------------------------------------------------------------------------

    def _enqueue(self, item: Item) -> None:
        self.taken.append((self.life, item.prompt_id))
        self.pending.append(item)
        self.most_queued = max(self.most_queued, len(self.pending) + (self.running is not None))
        self._arrived.set()

    async def _execute_all(self) -> None:
        while True:
            while not self.pending:
                self._arrived.clear()
                await self._arrived.wait()
            self.running = self.pending.pop(0)
            entry = await self._execute(self.running)
            await self.go_history.wait()
            self.history[self.running.prompt_id] = entry
            self.running, self._interrupted = None, None
            await self._broadcast()

    async def _execute(self, item: Item) -> dict[str, Any]:
        told: list[list[Any]] = []
        outputs: dict[str, Any] = {}

        async def tell(event: str, **data: Any) -> None:
            data = {**data, "prompt_id": item.prompt_id}
            if event.startswith("execution_"):
                told.append([event, data])
            if not (event == "executed" and self.quirks.no_executed):
                await self._send(item.client_id, {"type": event, "data": data})

        key = json.dumps(item.graph, sort_keys=True) + self._hash_inputs(item.graph)
        is_cached = key in self._cache
        await tell("execution_start")
        await tell("execution_cached", nodes=sorted(item.graph) if is_cached else [])
        status = "success"
        for node, part in item.graph.items():
            if self._interrupted == item.prompt_id:
                await tell("execution_interrupted", node_id=node, node_type=part["class_type"], executed=[])
                status = "error"
                break
            if not is_cached:
                await tell("progress_state", nodes={node: {"value": 0, "max": 1, "state": "running"}})
                await tell("executing", node=node)
            if part["class_type"] in COLORIZERS and not is_cached and (await self._colour(item, node)) is not None:
                facts = {"exception_type": "RuntimeError", "exception_message": self.quirks.node_error}
                tensors = {"current_inputs": {"image": ["tensor([[" + "0.1234, " * 2000]}}
                place = {"node_id": node, "node_type": part["class_type"], "traceback": [TRACEBACK]}
                await tell("execution_error", **place, **facts, **tensors)
                status = "error"
                break
            if self.node_types[part["class_type"]]["output_node"]:
                outputs[node] = self._cache[key] if is_cached else self._write(item, part)
                self._cache[key] = outputs[node]
                await tell("executed", node=node, output=outputs[node])
        if status == "success":
            if self.quirks.late_history:
                self.go_history.clear()
            await tell("execution_success")
        ending = {"status_str": status, "completed": status == "success", "messages": told}
        for part in item.graph.values():
            if part["class_type"] == "LoadImage":
                part["is_changed"] = ["note"]  # the executor writes into the graph that it keeps
        return {"prompt": item.row, "outputs": outputs, "status": ending, "meta": {}}

    async def _colour(self, item: Item, node: str) -> str | None:
        self.in_node = node
        if self.quirks.previews and item.client_id in self.sockets:
            await self.sockets[item.client_id].send_bytes(b"\x00\x00\x00\x01\x00\x00\x00\x01\xff\xd8preview")
        self.executions.append((self.life, item.prompt_id))
        self.at_work.set()
        await self.go.wait()
        self.in_node = None
        return self.quirks.node_error

    def _hash_inputs(self, graph: dict[str, Any]) -> str:
        images = [part["inputs"]["image"] for part in graph.values() if part["class_type"] == "LoadImage"]
        return "".join(hashlib.sha256(self.inputs.get(name, b"")).hexdigest() for name in images)

    def _write(self, item: Item, part: dict[str, Any]) -> dict[str, Any]:
        if self.quirks.unlistable:
            return {}
        source = next(one for one in item.graph.values() if one["class_type"] == "LoadImage")
        kind = "temp" if part["class_type"] == "PreviewImage" else "output"
        name = f"hueshift_{len(self.outputs):05}_.png"
        self.outputs[f"{kind}/{name}"] = paint(self.inputs[source["inputs"]["image"]])
        return {"images": [{"filename": name, "subfolder": "", "type": kind}]}

    async def _send(self, client_id: str, message: dict[str, Any]) -> None:
        ws = self.sockets.get(client_id)
        if ws is not None:
            with contextlib.suppress(Exception):  # whoever left does not stop the others
                await ws.send_json(message)

    async def _broadcast(self) -> None:
        for client_id in list(self.sockets):
            await self._send(client_id, {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}})

    def _note(self, path: str, body: Any) -> None:
        self.calls.append((path, body))


@contextlib.asynccontextmanager
async def running_comfyui() -> AsyncIterator[FakeComfyUI]:
    """A fake that listens; killed at the end."""
    fake = FakeComfyUI()
    await fake.start()
    try:
        yield fake
    finally:
        fake.release()
        fake.publish()
        fake.go_stats.set()
        fake.go_view.set()
        if fake.is_up:
            await fake.kill()
        if fake._place is not None:
            fake._place.close()
