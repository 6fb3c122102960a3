"""A colorizer that needs no weights, photos without files, and a worker that runs without a socket."""

import contextlib
import dataclasses
import datetime as dt
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeAlias

import httpx
import numpy as np
import pytest

from inference_worker.app import create_app
from inference_worker.crafts import Colorizing, Transforming
from inference_worker.errors import ModelError
from inference_worker.faults import FaultPlan
from inference_worker.identity import Identity, ServedModel
from inference_worker.imaging import Encoding, Floats, Pixels, encode
from inference_worker.metrics import Metrics
from inference_worker.offers import Offer, Predictor
from inference_worker.sampling import Samples
from inference_worker.service import Phase, Service, ServiceSettings
from inference_worker.sizing import SizeRange


class FakeColorizer:
    """Paints everything the same warm tone; `hold` makes it wait until `release`."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()
        self.is_broken = False
        self.stacks: list[tuple[int, ...]] = []

    def hold(self) -> None:
        self.free.clear()
        self.entered.clear()

    def release(self) -> None:
        self.free.set()

    def predict(self, lightness: Floats) -> Floats:
        self.entered.set()
        self.free.wait(10)
        self.stacks.append(lightness.shape)
        if self.is_broken:
            raise ModelError("model: broken by the test")
        count, _, height, width = lightness.shape
        ab = np.zeros((count, 2, height // 4, width // 4), np.float32)
        ab[:, 0], ab[:, 1] = 12.0, 25.0
        return ab


class ManualClock:
    """Never waits; every reading is *step_s* after the one before."""

    def __init__(self, step_s: float = 0.05) -> None:
        self.now_s = 0.0
        self.step_s = step_s
        self.slept: list[dt.timedelta] = []

    def read_s(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def read_cpu_s(self) -> float:
        return self.now_s

    async def sleep(self, delay: dt.timedelta) -> None:
        self.slept.append(delay)


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A worker and a client that talks to it."""

    client: httpx.AsyncClient
    service: Service
    clock: ManualClock
    colorizer: FakeColorizer
    time: ManualClock
    """The service's own clock; it stands still unless a test moves it."""
    stacks: list[tuple[int, ...]]
    """The shape of every run since the worker was ready."""


def draw_grey(width: int = 96, height: int = 80) -> Pixels:
    """A soft grey scene."""
    y, x = np.mgrid[0:height, 0:width]
    level = 128 + 90 * np.sin(x / 9) * np.cos(y / 13)
    return np.repeat(np.clip(level, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def draw_colour(width: int = 96, height: int = 80) -> Pixels:
    """The same scene in colours that no single tint explains."""
    grey = draw_grey(width, height).astype(np.int16)
    grey[:, : width // 2, 2] += 70
    grey[:, width // 2 :, 0] += 70
    grey[: height // 2, :, 1] -= 50
    return np.clip(grey, 0, 255).astype(np.uint8)


IDENTITY: Final = Identity(
    code_version="1.2.3+g0123456789ab",
    models=(
        ServedModel(name="fake", version="v9", family="lab-colorizer", backend="onnx", checksum=f"sha256:{'0' * 64}"),
    ),
)
Start: TypeAlias = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def grey_png() -> bytes:
    return encode(draw_grey(), Encoding.PNG)


@pytest.fixture
def colour_png() -> bytes:
    return encode(draw_colour(), Encoding.PNG)


@pytest.fixture
def start() -> Start:
    """Start a worker: `async with start(faults=..., max_bytes=...) as running`."""

    @contextlib.asynccontextmanager
    async def start_worker(
        *,
        faults: FaultPlan | None = None,
        load: Callable[[], Predictor] | None = None,
        is_awaited: bool = True,
        on_fatal: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        sizes: SizeRange | None = None,
        transformer: Predictor | None = None,
        samples: Samples | None = None,
        **bounds: object,
    ) -> AsyncIterator[Running]:
        plan = faults or FaultPlan()
        clock, time, colorizer = ManualClock(), ManualClock(step_s=0), FakeColorizer()
        metrics = Metrics()
        craft = Colorizing(model="fake", input_px=64, sizes=sizes)
        offers = {"/repair": Offer(craft=craft, load=load or (lambda: colorizer), version="v9", is_grey_wanted=True)}
        if transformer is not None:
            second = Transforming(model="second")
            offers["/transform"] = Offer(craft=second, load=lambda: transformer, version="t1", is_grey_wanted=False)
        service = Service(
            settings=dataclasses.replace(ServiceSettings(), **bounds),  # type: ignore[arg-type] # by name
            offers=offers,
            metrics=metrics,
            clock=time,
            faults=plan,
            on_fatal=on_fatal,
            on_lost=on_lost,
        )
        app = create_app(
            service=service,
            metrics=metrics,
            clock=clock,
            version="v9",
            identity=IDENTITY,
            faults=plan,
            samples=samples,
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://worker") as client,
        ):
            if is_awaited:
                await wait_ready(service)
            colorizer.stacks.clear()
            try:
                yield Running(client, service, clock, colorizer, time, colorizer.stacks)
            finally:
                colorizer.release()

    return start_worker


async def wait_ready(service: Service) -> None:
    """Until the model is loaded and warm."""
    await service.ready.wait()
    assert service.phase is Phase.READY
