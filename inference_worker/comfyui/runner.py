"""The runner that has ComfyUI do the work: a line of orders in front of its one or two places."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import random
import uuid
from collections import deque
from collections.abc import Callable
from typing import Final

from inference_worker.clock import Clock
from inference_worker.comfyui.address import Address
from inference_worker.comfyui.client import Client
from inference_worker.comfyui.errors import NobodyWaitsError
from inference_worker.comfyui.link import Handlers, Link
from inference_worker.comfyui.pictures import draw_grey, read_colour
from inference_worker.comfyui.template import Template, Workflow
from inference_worker.comfyui.tracking import Patience
from inference_worker.comfyui.wire import Event
from inference_worker.comfyui.work import Desk, News, Order, Prompt, Work
from inference_worker.errors import ModelError, SettingError, WorkerError
from inference_worker.imaging import Floats
from inference_worker.tracing import REQUEST_ID

log = logging.getLogger(__name__)

OLDEST: Final = (0, 3, 64)
"""The release that was measured; an interrupt of an older one may ignore the id and stop anybody's prompt."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComfyUISettings:
    """Which ComfyUI is driven, with what, and how much of it is used."""

    address: Address
    template: Template
    checkpoint: str | None = None
    """One of the template's aliases or what its node lists; None takes the template's own."""
    places: int = 2
    """Prompts of this worker in ComfyUI at once: one that runs and one that waits, so that the device is never idle."""
    patience: Patience = dataclasses.field(default_factory=Patience)


class ComfyUIRunner:
    """Turns lightness into colour by prompts to one ComfyUI; `run` must be running meanwhile."""

    def __init__(self, settings: ComfyUISettings, *, clock: Clock, dice: random.Random) -> None:
        """Prepare; nothing is connected before `run`."""
        client_id = f"hueshift-{uuid.uuid4()}"
        self.opened = asyncio.Event()
        self._settings = settings
        self._clock = clock
        self._client = Client(settings.address, client_id=client_id, patience=settings.patience)
        self._link = Link(
            settings.address,
            client_id=client_id,
            patience=settings.patience,
            clock=clock,
            dice=dice,
            handlers=Handlers(admit=self._admit, check=self._check, hear=self._hear, follow=self._follow_link),
        )
        self._workflow: Workflow | None = None
        self._inside = 0
        self._can_interrupt = False
        self._refusal: ModelError | None = None
        self._waiting: deque[Order] = deque()
        self._arrived = asyncio.Event()
        self._prompts: dict[str, Prompt] = {}
        self._troubles: dict[str, str] = {"link": "comfyui: not connected yet"}
        self._tell: Callable[[str | None], None] = lambda _: None
        self._desk = Desk(
            client=self._client,
            link=self._link,
            clock=clock,
            patience=settings.patience,
            prompts=self._prompts,
            names=set(),
            get_workflow=self._get_workflow,
            can_interrupt=lambda: self._can_interrupt,
            tell_stuck=self._follow_stuck,
        )

    @property
    def depth(self) -> int:
        """Orders that wait for a place."""
        return len(self._waiting)

    @property
    def prompts_inside(self) -> int:
        """Orders that hold a place in ComfyUI."""
        return self._inside

    @property
    def trouble(self) -> str | None:
        """Why no more work should come, in one line; None while all is well."""
        return next(iter(self._troubles.values()), None)

    def follow_health(self, told: Callable[[str | None], None]) -> None:
        """Have *told* called with `trouble` whenever it changes."""
        self._tell = told

    async def open(self) -> None:
        """Until ComfyUI is there and the template fits; one that is not there yet is waited for.

        Raises:
            ModelError: The template does not fit, or ComfyUI is too old.
        """
        await self.opened.wait()
        if self._refusal is not None:
            raise self._refusal

    async def submit(self, picture: Floats) -> Floats:
        """The ab planes (2, h, w) for one picture's lightness (1, 1, h, w); cancelling gives the place up.

        Raises:
            WorkerError: As `Work.do`.
        """
        height, width = picture.shape[2:]
        order = Order(
            request_id=REQUEST_ID.get() or str(uuid.uuid4()),
            data=await asyncio.to_thread(draw_grey, picture),
            size_px=math.sqrt(height * width),
            due_s=self._clock.read_s() + self._settings.patience.total_s,
            answer=asyncio.get_running_loop().create_future(),
            news=News(self._clock),
        )
        self._waiting.append(order)
        self._arrived.set()
        try:
            data = await order.answer
        finally:
            order.news.set()
            if order in self._waiting:
                self._waiting.remove(order)
        return await asyncio.to_thread(read_colour, data, height, width)

    async def run(self) -> None:
        """Serve orders until cancelled; what still waits in ComfyUI then is taken back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._link.run(), name="comfyui-link")
                for place in range(self._settings.places):
                    tasks.create_task(self._serve(), name=f"comfyui-{place}")
        finally:
            left = list(self._prompts)
            if left:
                with contextlib.suppress(WorkerError, TimeoutError):
                    async with asyncio.timeout(self._settings.patience.connect_s):
                        await self._client.delete(left)
            await self._client.close()

    async def _serve(self) -> None:
        """One place: an order at a time, held until nothing of it is left in ComfyUI."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            self._inside += 1
            try:
                await self._serve_one(self._waiting.popleft())
            finally:
                self._inside -= 1

    async def _serve_one(self, order: Order) -> None:
        try:
            data = await Work(self._desk, order).do()
        except NobodyWaitsError:
            return
        except WorkerError as exc:
            outcome: Exception = exc
        except Exception as exc:  # one bad prompt must not stop the others
            log.exception("prompt.crashed", extra={"fields": {"request_id": order.request_id}})
            outcome = ModelError("comfyui: a bug in the worker; see its log for this x-request-id")
            outcome.__cause__ = exc
        else:
            if not order.answer.done():
                order.answer.set_result(data)
            return
        if not order.answer.done():
            log.warning("prompt.failed", extra={"fields": {"request_id": order.request_id, "why": f"'{outcome}'"}})
            order.answer.set_exception(outcome)

    def _get_workflow(self) -> Workflow:
        if self._workflow is None:
            raise ModelError("comfyui: no workflow was checked yet")
        return self._workflow

    async def _admit(self) -> None:
        """Look the address up and refuse one outside the allowed networks.

        Raises:
            SettingError: It is outside.
            UnreachableError: The name has no address now.
        """
        try:
            await self._settings.address.check()
        except SettingError as exc:
            self._refuse(ModelError(str(exc)))
            raise

    def _refuse(self, error: ModelError) -> None:
        """Have `open` raise, unless the runner was open before: what was right once may become so again."""
        if not self.opened.is_set():
            self._refusal = error
            self.opened.set()

    async def _check(self) -> None:
        """Compare the template with what is installed; done after each opening, since a restart may bring other nodes.

        Raises:
            ModelError: It does not fit.
            UnreachableError: ComfyUI does not answer.
        """
        try:
            await self._bind()
        except ModelError as exc:
            self._refuse(exc)
            raise
        self.opened.set()

    async def _bind(self) -> None:
        template = self._settings.template
        release = await self._client.read_release()
        if release.number is not None and release.number < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise ModelError(f"comfyui: this is {release.text}; update it to {oldest} or later")
        types = {name: await self._client.read_node_type(name) for name in sorted(template.list_types())}
        installed = {name: kind for name, kind in types.items() if kind is not None}
        self._workflow = template.bind(installed, self._settings.checkpoint)
        self._can_interrupt = release.number is not None
        log.info("comfyui.connected", extra={"fields": {"release": release.text, "template": template.name}})

    def _hear(self, event: Event) -> None:
        prompt = self._prompts.get(event.prompt_id)
        if prompt is not None:
            prompt.hear(event, self._clock.read_s())

    def _follow_link(self, trouble: str | None) -> None:
        for prompt in self._prompts.values():
            prompt.order.news.set()  # time to look at queue and history
        self._set_trouble("link", trouble)

    def _follow_stuck(self, prompt_id: str, is_stuck: bool) -> None:  # noqa: FBT001 - a callback
        words = f"comfyui: prompt {prompt_id} cannot be stopped; restart ComfyUI" if is_stuck else None
        self._set_trouble(prompt_id, words)

    def _set_trouble(self, about: str, trouble: str | None) -> None:
        before = self.trouble
        self._troubles.pop(about, None)
        if trouble is not None:
            self._troubles[about] = trouble
        if (now := self.trouble) != before:
            log.info("comfyui.health_changed", extra={"fields": {"trouble": f"'{now or 'none'}'"}})
            self._tell(now)
