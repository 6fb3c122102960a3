"""One worker: its models, the queue in front of the device, and the way of a photo through both."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import enum
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from inference_worker.backends import Runner
from inference_worker.batching import DeviceQueue, Gate
from inference_worker.calibrating import Trial, measure
from inference_worker.clock import Clock
from inference_worker.costs import DOUBT, Budget, Costs, follow
from inference_worker.crafts import Craft, Prepared, find_bucket
from inference_worker.errors import (
    ColourInputError,
    DeadlineError,
    DeviceLostError,
    DeviceMemoryError,
    LateError,
    ModelError,
    NoModelError,
    NotReadyError,
    WorkerError,
)
from inference_worker.failures import is_device_lost
from inference_worker.faults import DeviceDrill, FaultPlan, Spoiler
from inference_worker.imaging import (
    COLOUR_RESIDUAL,
    Encoding,
    Floats,
    Limits,
    decode,
    encode,
    get_grey_plane,
    measure_residual_chroma,
)
from inference_worker.memory import MemoryMeter, Room, Share, choose_meter
from inference_worker.metrics import Metrics
from inference_worker.orders import Order
from inference_worker.scheduling import Bucket, Ticket
from inference_worker.uploads import Upload

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Phase(enum.StrEnum):
    """Where the worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    """What runs the model elsewhere is in trouble; photos that are inside are still worked on."""
    STOPPING = "stopping"
    """Not ready for more, and so it tells; whoever still asks is served until the listener closes."""
    FAILED = "failed"
    """The device is lost to this process, which ends; nobody is served."""


class Predictor(Protocol):
    """A loaded model, whatever it makes; called from one thread only."""

    def predict(self, stack: Floats, /) -> Floats: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """What one path serves: the kind of work, and how to open its model."""

    craft: Craft
    load: Callable[[], Predictor]
    version: str
    is_grey_wanted: bool
    """Whether a colour photo is the wrong input."""
    runner: Runner | None = None
    """Where the model runs, if not on a device of this process; `load` is not called then."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How much one worker takes on."""

    limits: Limits = dataclasses.field(default_factory=Limits)
    max_bytes: int = 32 * 1024 * 1024
    """Largest body in bytes; more is refused while it is still arriving."""
    max_held_bytes: int = 256 * 1024 * 1024
    """Bytes of bodies that all requests together hold; one more is refused with 429."""
    max_inside: int = 16
    """Requests held at once; one more is refused with 429."""
    max_held_pixels: int = 96_000_000
    """Pixels of decoded photos that all requests together hold, three bytes each; one more is refused with 429."""
    max_batch: int = 1
    """Most pictures in one run of the network. On a CPU, more gains nothing."""
    imaging_threads: int = 1
    """Threads that decode and encode. One leaves the other cores to neighbours; a GPU wants more."""
    memory_bytes: int | None = None
    """What the process, or the device, may hold; None takes 60 % of what the container or the machine has."""
    deadline: dt.timedelta = dt.timedelta(seconds=60)
    """Longest a request may stay inside."""


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An answer: the file, and the size that the policy allowed."""

    data: bytes
    size_px: int


class Service:
    """Makes pictures of photos; `run` must be running meanwhile."""

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        offers: Mapping[str, Offer],
        metrics: Metrics,
        clock: Clock,
        faults: FaultPlan | None = None,
        on_fatal: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        gpu: MemoryMeter | None = None,
    ) -> None:
        """Prepare a worker that is still loading.

        Args:
            settings: Bounds.
            offers: What is served, by path; each model is opened once, in a thread.
            metrics: Where all figures go.
            clock: Tells deadlines and durations.
            faults: A drill's spoilt pictures and full device.
            on_fatal: Called when a model cannot be loaded; must end the process.
            on_lost: Called when the device has failed for good; must end the process, soon.
            gpu: Of the device, for runtimes that cannot tell what they take of it.
        """
        self.settings = settings
        self.phase = Phase.LOADING
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()
        self.bodies = Room(settings.max_held_bytes)
        self._offers = offers
        self._metrics = metrics
        self._clock = clock
        self._faults = faults or FaultPlan()
        self._spoiler = Spoiler(self._faults.picture)
        self._on_fatal = on_fatal
        self._on_lost = on_lost
        self._gpu = gpu
        self._drill = DeviceDrill(self._faults, lambda kind: metrics.faults.labels(kind).inc())
        self._predictors: dict[str, Predictor] = {}
        self._gate = Gate(settings.max_inside)
        self._photos = Room(settings.max_held_pixels)
        self._queue = DeviceQueue(
            self._predict, max_batch=settings.max_batch, clock=clock, metrics=metrics, on_lost=self._lose_device
        )
        self._imaging = ThreadPoolExecutor(max_workers=settings.imaging_threads, thread_name_prefix="imaging")
        self._runners = [offer.runner for offer in offers.values() if offer.runner is not None]
        for runner in self._runners:
            runner.follow_health(self._follow_health)
        self._coming = 0
        self._accepted = 0
        self._answered = 0
        self._open_s = 0.0
        metrics.inside.set_function(lambda: self._gate.inside)
        metrics.accepted.set_function(lambda: self._accepted)
        metrics.answered.set_function(lambda: self._answered)
        metrics.waiting.set_function(lambda: self._queue.depth + sum(runner.depth for runner in self._runners))
        metrics.held_bytes.set_function(lambda: self.bodies.held)
        metrics.held_pixels.set_function(lambda: self._photos.held)
        metrics.ready.set_function(lambda: float(self.phase is Phase.READY))

    @property
    def is_loaded(self) -> bool:
        """Whether every model is in memory and warm."""
        return self.ready.is_set()

    async def run(self) -> None:
        """Load the models, then serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._queue.run(), name="device")
                for runner in self._runners:
                    tasks.create_task(runner.run(), name="runner")
                tasks.create_task(self._become_ready(), name="loader")
        finally:
            self.stop()
            self._imaging.shutdown(wait=True, cancel_futures=True)

    @property
    def versions(self) -> dict[str, str]:
        """The version of the model behind each path."""
        return {path: offer.version for path, offer in self._offers.items()}

    def count_requests(self) -> dict[str, int]:
        """How many requests got a place, and how many of them an answer; the others' clients left first."""
        return {"accepted": self._accepted, "answered": self._answered}

    def leave(self) -> None:
        """Tell everyone who asks for readiness to go elsewhere; photos are still taken. May be called twice."""
        self.phase = Phase.STOPPING

    def stop(self) -> None:
        """Leave, and let go of whoever hangs in a drill; may be called twice."""
        self.leave()
        self.stopping.set()

    def check_loaded(self) -> None:
        """Refuse until every model is in memory.

        Raises:
            NotReadyError: Still loading, or stopped before that was done.
        """
        if not self.is_loaded:
            raise NotReadyError(self.phase)

    def check_open(self, path: str, order: Order) -> None:
        """Refuse at once what would be refused after its body was read.

        Raises:
            NoModelError: Nothing is served behind *path*.
            NotReadyError: Still loading, or what runs the model is in trouble.
            DeviceLostError: The device has failed for good.
            QueueFullError: Every place is taken.
        """
        if path not in self._offers:
            raise NoModelError(path, ", ".join(self._offers))
        self.check_loaded()
        if self.phase is Phase.UNHEALTHY and self._offers[path].runner is not None:
            raise NotReadyError(self.phase)
        if self._queue.is_lost:
            raise DeviceLostError
        self._gate.check(order.priority, wait_s=self._estimate_wait_s(self._make_ticket(path, order)))

    async def make(self, path: str, upload: Upload, order: Order) -> Picture:
        """Make a picture of one photo; a colour photo is coloured only if the order forces it.

        Raises:
            QueueFullError: Every place is taken.
            LateError: It would take longer than the caller waits.
            DeadlineError: It took longer than that.
            DeviceMemoryError: The device has no room.
            DeviceLostError: The device has failed for good.
            ColourInputError: The photo has colour of its own.
            UnsupportedTypeError: Not a picture the worker reads.
            TooManyPixelsError: Larger than the limit, by its header.
            UnreadableImageError: Damaged, too small or too narrow.
        """
        ticket = self._make_ticket(path, order)
        needed_s = self._estimate_wait_s(ticket)
        with self._gate.enter(order.priority, wait_s=needed_s), Share(self._photos) as share:
            given_s = ticket.deadline_s - ticket.arrived_s
            if needed_s > given_s:
                if self._gate.inside == 1:
                    self._doubt(ticket.bucket.model)
                raise LateError(needed_s, given_s)
            self._accepted += 1
            with self._count_answered():
                try:
                    async with asyncio.timeout(given_s):
                        return await self._make(path, upload, order, ticket, share)
                except TimeoutError as exc:
                    raise DeadlineError(given_s) from exc

    @contextlib.contextmanager
    def _count_answered(self) -> Iterator[None]:
        try:
            yield
        except WorkerError:
            self._answered += 1
            raise
        self._answered += 1

    def _make_ticket(self, path: str, order: Order) -> Ticket:
        now_s = self._clock.read_s()
        own_s = self.settings.deadline.total_seconds()
        return Ticket(
            bucket=self._offers[path].craft.guess_bucket(order.size_px),
            priority=order.priority,
            arrived_s=now_s,
            queued_s=now_s,
            deadline_s=now_s + (own_s if order.timeout_s is None else min(own_s, order.timeout_s)),
        )

    def _estimate_wait_s(self, ticket: Ticket) -> float:
        """From now to the answer: the slower of device and imaging sets the pace of the line."""
        own_s = self._open_s + self._queue.finish_s
        imaging_s = self._gate.inside * own_s / self.settings.imaging_threads
        return max(self._queue.estimate_wait_s(ticket, coming=self._coming), imaging_s) + own_s

    def _doubt(self, model: str) -> None:
        """An idle worker refused on its estimates alone: trust them less, or it might refuse for ever."""
        self._queue.doubt(model)
        self._open_s *= DOUBT
        self._queue.finish_s *= DOUBT

    async def _make(self, path: str, upload: Upload, order: Order, ticket: Ticket, share: Share) -> Picture:
        offer = self._offers[path]
        self._coming += 1
        try:
            prepared = await self._in_thread(self._open, offer, upload, order, share)
        finally:
            self._coming -= 1
        output = await self._run(offer, ticket, prepared.picture)
        data = await self._in_thread(self._close, offer, prepared, output, order.encoding)
        self._metrics.images.labels(path).inc()
        return Picture(data, prepared.size_px)

    async def _run(self, offer: Offer, ticket: Ticket, picture: Floats) -> Floats:
        if offer.runner is not None:
            return await offer.runner.submit(picture)
        placed = dataclasses.replace(ticket, bucket=find_bucket(offer.craft.model, picture))
        return await self._queue.submit(placed, picture)

    async def _in_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._imaging, lambda: function(*args, **kwargs))

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[Callable[[], float]]:
        started_s, started_cpu_s = self._clock.read_s(), self._clock.read_cpu_s()
        took_s = 0.0
        yield lambda: took_s
        took_s = max(1e-6, self._clock.read_s() - started_s)
        self._metrics.count_stage(stage, wall_s=took_s, cpu_s=max(0.0, self._clock.read_cpu_s() - started_cpu_s))

    def _open(self, offer: Offer, upload: Upload, order: Order, share: Share) -> Prepared:
        with self._timed("decode") as read_took_s:
            photo = decode(upload.data, self.settings.limits, declared=upload.declared, admit=share.take)
            if offer.is_grey_wanted:
                residual = measure_residual_chroma(photo)
                is_grey = get_grey_plane(photo) is not None
                kind = "grey" if is_grey else "colour" if residual > COLOUR_RESIDUAL else "toned"
                self._metrics.inputs.labels(kind).inc()
                if residual > COLOUR_RESIDUAL and not order.is_forced:
                    raise ColourInputError(residual, COLOUR_RESIDUAL)
            prepared = offer.craft.open(photo, order.size_px)
        self._open_s = follow(self._open_s, read_took_s())
        return prepared

    def _close(self, offer: Offer, prepared: Prepared, output: Floats, encoding: Encoding) -> bytes:
        spoiler = self._spoiler if offer.is_grey_wanted else Spoiler(None)
        with self._timed("encode") as read_took_s:
            picture = offer.craft.close(prepared, spoiler.spoil_colours(output))
            data = encode(spoiler.spoil_pixels(picture), encoding)
        self._queue.finish_s = follow(self._queue.finish_s, read_took_s())
        return spoiler.spoil_file(data)

    def _predict(self, bucket: Bucket, stack: Floats) -> Floats:
        self._drill.check(len(stack), is_ready=self.is_loaded)
        with self._timed("model"):
            return self._predictors[bucket.model].predict(stack)

    def _lose_device(self) -> None:
        self.phase = Phase.FAILED
        self._on_lost()

    async def _become_ready(self) -> None:
        for path, offer in self._offers.items():
            try:
                await self._load(path, offer)
            except DeviceLostError:
                return  # told of by the queue
            except (ModelError, DeviceMemoryError) as exc:
                if offer.runner is None:
                    log.exception("model.load_failed")
                else:  # a template that does not fit is no bug: one line says which node or field
                    log.error("model.refused", extra={"fields": {"why": f"'{exc}'"}})  # noqa: TRY400
                (self._lose_device if offer.runner is None and is_device_lost(exc) else self._on_fatal)()
                return
        self.ready.set()
        if self.phase is Phase.LOADING:
            self.phase = Phase.UNHEALTHY if any(runner.trouble for runner in self._runners) else Phase.READY
            log.info("model.became_ready")

    def _follow_health(self, trouble: str | None) -> None:
        if self.phase in {Phase.READY, Phase.UNHEALTHY}:
            self.phase = Phase.READY if trouble is None else Phase.UNHEALTHY

    async def _load(self, path: str, offer: Offer) -> None:
        """Open one model, measure what it costs, and make one picture the whole way: the first visitor pays nothing."""
        if offer.runner is None:
            await self._measure(offer)
            return await self._warm(path, offer)
        # What runs elsewhere was not measured, and nothing is refused on a guess.
        self._queue.set_capacity(offer.craft.model, Costs(), Budget(limit_px=1, ceiling_px=1))
        await offer.runner.open()
        while True:
            try:
                return await self._warm(path, offer)
            except (NotReadyError, DeadlineError) as exc:
                log.warning("model.warm_up_failed", extra={"fields": {"why": f"'{exc}'"}})

    async def _measure(self, offer: Offer) -> None:
        predictor = await self._in_thread(offer.load)
        meter = choose_meter(predictor, gpu=self._gpu, limit_bytes=self.settings.memory_bytes)
        self._predictors[offer.craft.model] = predictor
        trial = Trial(craft=offer.craft, predict=predictor.predict, meter=meter, clock=self._clock)
        costs, budget = await self._queue.call(measure, trial, max_batch=self.settings.max_batch)
        self._queue.set_capacity(offer.craft.model, costs, budget)
        facts = {"model": offer.craft.model, "run_ms": f"{1000 * costs.estimate_s(trial.usual_px):.1f}"}
        log.info("model.was_measured", extra={"fields": facts | {"budget_px": budget.limit_px}})

    async def _warm(self, path: str, offer: Offer) -> None:
        side = self.settings.limits.min_side_px
        data = encode(np.full((side, side, 3), 128, np.uint8), Encoding.JPEG)
        photo = await self._in_thread(decode, data, self.settings.limits)
        prepared = await self._in_thread(offer.craft.open, photo, None)
        ticket = dataclasses.replace(self._make_ticket(path, Order()), deadline_s=math.inf)
        output = await self._run(offer, ticket, prepared.picture)
        await self._in_thread(self._close, offer, prepared, output, Encoding.PNG)
