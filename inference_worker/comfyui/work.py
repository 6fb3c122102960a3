"""One picture's way through ComfyUI: upload, prompt, wait, download; and how a prompt is got rid of again.

What decides whether a prompt is sent is whether ComfyUI knows it: it is looked for under its id first, and again after
every answer that did not come. So a lost answer, a lost socket and a second request with the same id send nothing
twice. What decides whether it is sent once more is that ComfyUI has forgotten it after the link was lost, which is what
a restart does; a prompt that vanishes while the link stands was deleted by somebody, and the caller is told.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import itertools
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from inference_worker.clock import Clock
from inference_worker.comfyui.client import Client
from inference_worker.comfyui.errors import (
    JobCancelledError,
    JobFailedError,
    JobLateError,
    NobodyWaitsError,
    PromptLostError,
    RefusedError,
    UnreachableError,
    UnusableAnswerError,
)
from inference_worker.comfyui.link import Link
from inference_worker.comfyui.pictures import name_content
from inference_worker.comfyui.template import Workflow
from inference_worker.comfyui.tracking import (
    Broken,
    Executing,
    Missing,
    Patience,
    Produced,
    Queued,
    Stopped,
    Track,
    Unlisted,
    explain_late,
    hear,
    see,
)
from inference_worker.comfyui.wire import (
    Ended,
    Event,
    File,
    Finished,
    Graph,
    Pending,
    Running,
    Sighting,
    Unknown,
    Worked,
    is_same_work,
)

log = logging.getLogger(__name__)

R = TypeVar("R")

MAX_ATTEMPTS: Final = 3
RETRY_S: Final = 0.5
LISTING_S: Final = 0.25
"""Between two looks for a success that is not in the history yet."""
NAMESPACE: Final = uuid.UUID("6f1c2a52-94ad-5c0e-9b51-3d1f8d1a7f10")


def name_prompt(request_id: str, number: int) -> str:
    """The prompt's id: the request's own if it is a UUID, else one made of it; *number* tells repetitions apart."""
    if number == 0:
        try:
            return str(uuid.UUID(request_id))
        except ValueError:
            pass
    return str(uuid.uuid5(NAMESPACE, f"{number}/{request_id}"))


class News:
    """A flag that something may have changed; raising it twice is the same as once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._raised = asyncio.Event()

    def set(self) -> None:
        """Wake whoever waits."""
        self._raised.set()

    async def wait(self, at_most_s: float) -> None:
        """Until the flag is raised, or *at_most_s* has passed; lowers it."""
        async with asyncio.TaskGroup() as tasks:
            raised = tasks.create_task(self._raised.wait())
            passed = tasks.create_task(self._clock.sleep(dt.timedelta(seconds=at_most_s)))
            await asyncio.wait((raised, passed), return_when=asyncio.FIRST_COMPLETED)
            raised.cancel()
            passed.cancel()
        self._raised.clear()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Order:
    """One picture that somebody waits for; an answer that is done means that nobody does any more."""

    request_id: str
    data: bytes
    size_px: float
    due_s: float
    answer: asyncio.Future[bytes]
    news: News


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Prompt:
    """What this worker has in ComfyUI."""

    order: Order
    output: str
    track: Track
    tenth: int = 0
    """How far its node is, as last told in the log."""

    def hear(self, event: Event, now_s: float) -> None:
        """Take an event of this prompt."""
        self.track = hear(self.track, event, output=self.output, now_s=now_s)
        if isinstance(event, Worked) and event.share is not None and (tenth := int(10 * event.share)) != self.tenth:
            self.tenth = tenth
            fields = {"prompt_id": event.prompt_id, "share": f"{event.share:.2f}"}
            log.info("prompt.progressed", extra={"fields": fields})
        self.order.news.set()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What all works of one runner share."""

    client: Client
    link: Link
    clock: Clock
    patience: Patience
    prompts: dict[str, Prompt]
    names: set[str]
    """Input files of this worker that are in use."""
    get_workflow: Callable[[], Workflow]
    can_interrupt: Callable[[], bool]
    tell_stuck: Callable[[str, bool], None]
    """Told that a prompt does not go away, or has gone at last."""


class Work:
    """One order; `do` must be awaited once, and holds its place in ComfyUI until nothing of it is left there."""

    def __init__(self, desk: Desk, order: Order) -> None:
        self._desk = desk
        self._order = order

    async def do(self) -> bytes:
        """The picture that ComfyUI made.

        Raises:
            NobodyWaitsError: The order was given up; nothing is left in ComfyUI.
            JobFailedError: A node failed.
            RefusedError: ComfyUI refused the workflow.
            JobCancelledError: Somebody deleted or interrupted the prompt, or ComfyUI forgot it too often.
            JobLateError: One of the waits was too long; the order has been told before its prompt was got rid of.
            UnusableAnswerError: ComfyUI answered something that its API does not have.
        """
        for salt in range(MAX_ATTEMPTS):
            name = self._take_name(salt)
            try:
                return await self._attempt(name)
            except PromptLostError:
                log.warning("prompt.lost", extra={"fields": {"request_id": self._order.request_id}})
            finally:
                self._desk.names.discard(name)
        raise JobCancelledError(f"it lost this picture {MAX_ATTEMPTS} times, as in restarts")

    def _take_name(self, salt: int) -> str:
        """A name in the input folder that no other order is about to overwrite; another one is another cache entry."""
        content = name_content(self._order.data)
        while True:
            name = f"hueshift-{content}.png" if salt == 0 else f"hueshift-{content}-{salt}.png"
            if name not in self._desk.names:
                self._desk.names.add(name)
                return name
            salt += 1

    async def _attempt(self, name: str) -> bytes:
        workflow = self._desk.get_workflow()
        stored = await self._persist(lambda: self._desk.client.upload(name, self._order.data))
        graph = workflow.fill(image=stored, size_px=self._order.size_px)
        epoch = self._desk.link.epoch
        try:
            prompt_id, was_there = await self._place(graph, workflow)
        except RefusedError as exc:
            if workflow.image[0] in exc.without_file_at:  # its disk was wiped after the upload
                raise PromptLostError from exc
            raise
        try:
            file = await self._wait_produced(prompt_id, epoch, is_seen=not was_there)
        except Exception:  # but not a cancellation: a worker that stops takes back what is still listed
            del self._desk.prompts[prompt_id]
            raise
        del self._desk.prompts[prompt_id]
        return await self._persist(lambda: self._desk.client.view(file))

    async def _persist(self, call: Callable[[], Awaitable[R]]) -> R:
        """Repeat a call that does no harm when it is done twice, until ComfyUI answers."""
        while True:
            self._check_wanted()
            try:
                return await call()
            except UnreachableError:
                await self._order.news.wait(RETRY_S)

    def _check_wanted(self) -> None:
        if self._order.answer.done():
            raise NobodyWaitsError
        if self._desk.clock.read_s() >= self._order.due_s:
            raise JobLateError(f"no picture within {self._desk.patience.total_s:g} s")

    async def _place(self, graph: Graph, workflow: Workflow) -> tuple[str, bool]:
        """Have the prompt in ComfyUI; returns its id, and whether it was there already."""
        for number in itertools.count():
            prompt_id = name_prompt(self._order.request_id, number)
            if prompt_id in self._desk.prompts:  # the same request twice at once: each has its own
                continue
            # Listed before it is sent, so that no event is missed.
            track = Queued(self._desk.clock.read_s())
            self._desk.prompts[prompt_id] = Prompt(order=self._order, output=workflow.output, track=track)
            try:
                was_there = await self._claim(prompt_id, graph)
            except Exception:  # but not a cancellation, as above
                del self._desk.prompts[prompt_id]
                raise
            if was_there is not None:
                return prompt_id, was_there
            del self._desk.prompts[prompt_id]
        raise AssertionError  # numbers do not end

    async def _claim(self, prompt_id: str, graph: Graph) -> bool | None:
        """Find or send a prompt; returns whether it was there, and None if the id belongs to something else."""
        may_be_there = False
        while True:
            try:
                sighting = await self._persist(lambda: self._desk.client.find(prompt_id))
            except (NobodyWaitsError, JobLateError) as exc:
                if may_be_there:
                    if not self._order.answer.done():
                        self._order.answer.set_exception(exc)
                    await self._remove(prompt_id)
                raise
            match sighting:
                case Unknown():
                    try:
                        await self._desk.client.send(prompt_id, graph)
                    except UnreachableError:  # it may have arrived: look before it is sent again
                        may_be_there = True
                        await self._order.news.wait(RETRY_S)
                    else:
                        return False
                case Pending(graph=known) | Running(graph=known) | Finished(graph=known):
                    return True if is_same_work(graph, known) else None
                case Ended():  # a failure of before: the request is a new try
                    return None

    async def _wait_produced(self, prompt_id: str, epoch: int, *, is_seen: bool) -> File:
        """Until the picture is there; *is_seen* unless the prompt was found and may be anywhere on its way."""
        desk, prompt = self._desk, self._desk.prompts[prompt_id]
        pause_s = desk.patience.look_s if is_seen else 0.0
        misses = 0
        while True:
            if self._order.answer.done():
                await self._remove(prompt_id)
                raise NobodyWaitsError
            now_s = desk.clock.read_s()
            match prompt.track:
                case Produced(file=file):
                    return file
                case Broken(reason=reason):
                    raise JobFailedError(f"comfyui: {reason}")
                case Stopped():
                    raise JobCancelledError("somebody interrupted the prompt")
                case Missing() if desk.link.is_up and desk.link.epoch != epoch:
                    raise PromptLostError
                case Missing() if desk.link.is_up and misses > 1:  # the end of a link may be noticed a moment late
                    raise JobCancelledError("somebody deleted the prompt from its queue")
                case Executing(share=share) if not desk.link.is_up:
                    prompt.track = Executing(now_s, share)  # it cannot be heard now
                case _:
                    pass
            late = explain_late(prompt.track, desk.patience, due_s=self._order.due_s, now_s=now_s)
            if late is not None:
                self._order.answer.set_exception(JobLateError(late))
                log.warning("prompt.late", extra={"fields": {"prompt_id": prompt_id, "why": f"'{late}'"}})
                continue
            await self._order.news.wait(pause_s)
            if (sighting := await self._look(prompt_id)) is not None:
                misses = misses + 1 if isinstance(sighting, Unknown) else 0
                epoch = desk.link.epoch if desk.link.is_up and not misses else epoch
                prompt.track = see(prompt.track, sighting, output=prompt.output, now_s=desk.clock.read_s())
            pause_s = LISTING_S if isinstance(prompt.track, Unlisted) else desk.patience.look_s

    async def _look(self, prompt_id: str) -> Sighting | None:
        """Where the prompt is; None while ComfyUI does not answer, or when it is known already."""
        if isinstance(self._desk.prompts[prompt_id].track, Produced | Broken | Stopped):
            return None
        try:
            return await self._desk.client.find(prompt_id)
        except UnreachableError:
            return None

    async def _remove(self, prompt_id: str) -> None:
        """Until ComfyUI has no more to do with the prompt: deleted if it waits, interrupted if it runs."""
        desk = self._desk
        since_s = desk.clock.read_s()
        is_interrupted = not desk.can_interrupt()
        try:
            while True:
                with contextlib.suppress(UnreachableError, UnusableAnswerError):
                    match await desk.client.find(prompt_id):
                        case Pending():
                            await desk.client.delete([prompt_id])  # it may start meanwhile: look again
                        case Running() if is_interrupted:
                            pass
                        case Running():
                            await desk.client.interrupt(prompt_id)
                            is_interrupted = True
                        case _:
                            log.info("prompt.removed", extra={"fields": {"prompt_id": prompt_id}})
                            return
                if desk.clock.read_s() - since_s >= desk.patience.interrupt_s:
                    desk.tell_stuck(prompt_id, True)
                await self._order.news.wait(RETRY_S)
        finally:
            desk.tell_stuck(prompt_id, False)
