"""One worker: a loaded model, the queue in front of it, and the way of a photo through both."""

import asyncio
import dataclasses
import datetime as dt
import enum
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np

from inference_worker.backends import Colorizer, Runner
from inference_worker.batching import DeviceQueue, Gate
from inference_worker.errors import ColourInputError, DeadlineError, ModelError, NotReadyError
from inference_worker.faults import WrongPicture, spoil
from inference_worker.imaging import (
    COLOUR_RESIDUAL,
    Encoding,
    Floats,
    Limits,
    Pixels,
    decode,
    encode,
    measure_residual_chroma,
    prepare,
    recombine,
)
from inference_worker.metrics import Metrics
from inference_worker.uploads import Upload

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Phase(enum.StrEnum):
    """Where the worker is in its life; only a ready worker takes photos."""

    LOADING = "loading"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    """What runs the model elsewhere is in trouble; photos that are inside are still worked on."""
    STOPPING = "stopping"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How much one worker takes on."""

    input_px: int
    """Side of the square whose area the network's input has; a multiple of 32."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    max_bytes: int = 32 * 1024 * 1024
    """Largest body in bytes; more is refused while it is still arriving."""
    max_inside: int = 16
    """Requests held at once; one more is refused with 429."""
    max_batch: int = 1
    """Most pictures in one run of the network. On a CPU, more gains nothing."""
    deadline: dt.timedelta = dt.timedelta(seconds=60)
    """Longest a request may stay inside."""


class Service:
    """Colours photos; `run` must be running meanwhile."""

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        load: Callable[[], Colorizer],
        metrics: Metrics,
        wrong_picture: WrongPicture | None = None,
        on_fatal: Callable[[], None] = lambda: None,
        runner: Runner | None = None,
    ) -> None:
        """Prepare a worker that is still loading.

        Args:
            settings: Bounds.
            load: Opens the model; called once, in a thread.
            metrics: Where queue and batch figures go.
            wrong_picture: A drill's spoilt colours, or None.
            on_fatal: Called when the model cannot be loaded; must end the process.
            runner: Where the model runs, if not on a device of this process; *load* is not called then.
        """
        self.settings = settings
        self.phase = Phase.LOADING
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()
        self._load = load
        self._metrics = metrics
        self._wrong_picture = wrong_picture
        self._on_fatal = on_fatal
        self._colorizer: Colorizer | None = None
        self._gate = Gate(settings.max_inside)
        self._runner = runner
        self._queue = runner or DeviceQueue(
            self._predict, max_batch=settings.max_batch, observe=metrics.batches.observe
        )
        if runner is not None:
            runner.follow_health(self._follow_health)
        self._imaging = ThreadPoolExecutor(max_workers=1, thread_name_prefix="imaging")
        metrics.inside.set_function(lambda: self._gate.inside)
        metrics.waiting.set_function(lambda: self._queue.depth)
        metrics.ready.set_function(lambda: float(self.phase is Phase.READY))

    async def run(self) -> None:
        """Load the model, then serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._queue.run(), name="device")
                tasks.create_task(self._become_ready(), name="loader")
        finally:
            self.stop()
            self._imaging.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Take no more photos and let go of whoever hangs; may be called twice."""
        self.phase = Phase.STOPPING
        self.stopping.set()

    def check_ready(self) -> None:
        """Refuse unless the model is loaded and warm.

        Raises:
            NotReadyError: Still loading, or stopping.
        """
        if self.phase is not Phase.READY:
            raise NotReadyError(self.phase)

    async def repair(self, upload: Upload, *, encoding: Encoding, is_forced: bool) -> bytes:
        """Colour one photo and write it in *encoding*; a colour photo is taken only if *is_forced*.

        Raises:
            QueueFullError: Every place is taken.
            DeadlineError: It took longer than the deadline.
            ColourInputError: The photo has colour of its own.
            UnsupportedTypeError: Not a picture the worker reads.
            TooManyPixelsError: Larger than the limit, by its header.
            UnreadableImageError: Damaged, too small or too narrow.
        """
        with self._gate.enter():
            try:
                async with asyncio.timeout(self.settings.deadline.total_seconds()):
                    return await self._colour(upload, encoding, is_forced=is_forced)
            except TimeoutError as exc:
                raise DeadlineError(self.settings.deadline.total_seconds()) from exc

    async def _colour(self, upload: Upload, encoding: Encoding, *, is_forced: bool) -> bytes:
        photo, lightness = await self._in_thread(self._open, upload, is_forced)
        ab = await self._queue.submit(lightness)
        return await self._in_thread(self._finish, photo, ab, encoding)

    async def _in_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._imaging, lambda: function(*args, **kwargs))

    def _open(self, upload: Upload, is_forced: bool) -> tuple[Pixels, Floats]:  # noqa: FBT001 - a thread's entry
        photo = decode(upload.data, self.settings.limits, declared=upload.declared)
        if not is_forced:
            residual = measure_residual_chroma(photo)
            if residual > COLOUR_RESIDUAL:
                raise ColourInputError(residual, COLOUR_RESIDUAL)
        return photo, prepare(photo, self.settings.input_px)

    def _finish(self, photo: Pixels, ab: Floats, encoding: Encoding) -> bytes:
        shown = ab if self._wrong_picture is None else spoil(ab, self._wrong_picture)
        return encode(recombine(photo, shown), encoding)

    def _predict(self, lightness: Floats) -> Floats:
        if self._colorizer is None:
            raise NotReadyError(self.phase)
        return self._colorizer.predict(lightness)

    async def _become_ready(self) -> None:
        try:
            if self._runner is None:
                self._colorizer = await self._in_thread(self._load)
            else:
                await self._runner.open()
            await self._warm_up()
        except ModelError as exc:
            if self._runner is None:
                log.exception("model.load_failed")
            else:  # a template that does not fit is no bug: one line says which node or field
                log.error("model.refused", extra={"fields": {"why": f"'{exc}'"}})  # noqa: TRY400
            self._on_fatal()
            return
        if self.phase is Phase.LOADING:
            is_well = self._runner is None or self._runner.trouble is None
            self.phase = Phase.READY if is_well else Phase.UNHEALTHY
            self.ready.set()
            log.info("model.became_ready")

    def _follow_health(self, trouble: str | None) -> None:
        if self.phase in {Phase.READY, Phase.UNHEALTHY}:
            self.phase = Phase.READY if trouble is None else Phase.UNHEALTHY

    async def _warm_up(self) -> None:
        while True:
            try:
                return await self._warm()
            except (NotReadyError, DeadlineError) as exc:
                if self._runner is None:
                    raise
                log.warning("model.warm_up_failed", extra={"fields": {"why": f"'{exc}'"}})

    async def _warm(self) -> None:
        """Make one picture the whole way, so that the first visitor does not pay for lazy set-up."""
        side = self.settings.limits.min_side_px
        photo = np.full((side, side, 3), 128, np.uint8)
        upload = Upload(encode(photo, Encoding.PNG), "image/png")
        await self._colour(upload, Encoding.PNG, is_forced=False)
