"""The worker's HTTP face: its routes, and what runs beside them."""

import asyncio
import contextlib
import datetime as dt
import hmac
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive

from inference_worker.answers import Observed, add_error_answers
from inference_worker.clock import Clock
from inference_worker.errors import (
    ClientGoneError,
    InjectedError,
    NotReadyError,
    SlowUploadError,
    TokenError,
    WorkerError,
)
from inference_worker.faults import HEADER, FaultDice, FaultPlan, Outcome
from inference_worker.identity import Identity
from inference_worker.memory import Share
from inference_worker.metrics import Metrics
from inference_worker.orders import COLORIZE_PATH, SIZE_HEADER, TRANSFORM_PATH, Order, read_order
from inference_worker.sampling import NO_SAMPLE, Samples
from inference_worker.service import Phase, Picture, Service
from inference_worker.uploads import Upload, read_upload

R = TypeVar("R")


async def run_unless_gone(receive: Receive, work: Coroutine[Any, Any, R]) -> R:
    """Await *work*, but cancel it when the client closes the connection; the request's body must have been read.

    Raises:
        ClientGoneError: The client left first.
    """

    async def wait_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def attempt() -> R | WorkerError:
        try:
            return await work
        except WorkerError as exc:  # told by value: a task group would wrap it
            return exc

    async with asyncio.TaskGroup() as tasks:
        job = tasks.create_task(attempt())
        gone = tasks.create_task(wait_gone())
        await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
        job.cancel()
        gone.cancel()
    if job.cancelled():
        raise ClientGoneError
    answer = job.result()
    if isinstance(answer, WorkerError):
        raise answer
    return answer


def add_probes(app: FastAPI, service: Service, metrics: Metrics, identity: Identity) -> None:
    """What orchestrators, Prometheus and control planes ask; drills never touch these.

    `/health` and `/ready` are the two words of other style-transfer services, so that their probes fit: there a worker
    that stops is one that is not ready, and only `/readyz` tells the two apart.
    """

    @app.get("/healthz")
    @app.get("/health")
    async def show_health() -> dict[str, object]:
        return {"status": "healthy", "model_loaded": service.is_loaded}

    @app.get("/readyz")
    async def show_readiness() -> Response:
        return JSONResponse({"status": service.phase.value}, 200 if service.phase is Phase.READY else 503)

    @app.get("/ready")
    async def show_ready() -> Response:
        is_ready = service.phase is Phase.READY
        return JSONResponse({"status": "ready" if is_ready else "loading"}, 200 if is_ready else 503)

    @app.get("/models")
    async def show_models() -> Response:
        service.check_loaded()  # a worker that leaves still says what it serves: it serves on
        return JSONResponse(identity.describe())

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE_LATEST)


def add_samples(app: FastAPI, samples: Samples) -> None:
    """What is kept of live requests, for who shows the token: these are people's photos."""
    secret = f"Bearer {samples.policy.token}".encode()

    def check_token(request: Request) -> None:
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), secret):
            raise TokenError

    def send_file(data: bytes) -> Response:
        unseen = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        return Response(data, media_type="application/octet-stream", headers=unseen)

    async def show(request: Request) -> Response:
        check_token(request)
        if request.method == "DELETE":
            samples.clear()
            return Response(status_code=204)
        return JSONResponse({"samples": samples.show()}, headers={"cache-control": "no-store"})

    async def show_input(request: Request) -> Response:
        check_token(request)
        return send_file(samples.find(request.path_params["id"]).photo)

    async def show_output(request: Request) -> Response:
        check_token(request)
        return send_file(samples.find(request.path_params["id"]).answer)

    app.add_route("/samples", show, methods=["GET", "DELETE"])
    app.add_route("/samples/{id}/input", show_input, methods=["GET"])
    app.add_route("/samples/{id}/output", show_output, methods=["GET"])


class Desk:
    """Takes one request after the other to the service, through whatever a drill has in store for it."""

    def __init__(
        self, *, service: Service, metrics: Metrics, clock: Clock, faults: FaultPlan, samples: Samples | None
    ) -> None:
        self._service = service
        self._samples = samples
        self._metrics = metrics
        self._clock = clock
        self._faults = faults
        self._dice = FaultDice(faults)

    async def answer(self, request: Request) -> Response:
        """The picture for a photo; what is refused is refused before its body is read, where that can be known."""
        path = request.scope["path"]
        order = read_order(request.query_params, request.headers)
        self._service.check_open(path, order)
        with Share(self._service.bodies) as share:
            upload = await self._read_body(request, share)
            await self._draw_fault(request)
            picture, shown = await run_unless_gone(request.receive, self._make(path, upload, order))
        if self._samples is not None and NO_SAMPLE not in request.headers:
            # Only an id that came with the request is one that another worker has seen too.
            self._samples.offer(
                request.headers.get("x-request-id", ""),
                path=path,
                version=self._service.versions[path],
                photo=upload.data,
                answer=picture.data,
            )
        for kind in shown:
            self._metrics.faults.labels(kind).inc()
        headers = {SIZE_HEADER: str(picture.size_px)} | ({HEADER: ",".join(shown)} if shown else {})
        return Response(picture.data, media_type=order.encoding.value, headers=headers)

    async def _read_body(self, request: Request, share: Share) -> Upload:
        longest = self._service.settings.deadline.total_seconds()
        try:
            async with asyncio.timeout(longest):
                return await read_upload(request, self._service.settings.max_bytes, share)
        except TimeoutError as exc:
            raise SlowUploadError(longest) from exc

    async def _draw_fault(self, request: Request) -> None:
        outcome = self._dice.draw()
        if outcome is not Outcome.NORMAL:
            self._metrics.faults.labels(outcome).inc()
        match outcome:
            case Outcome.ERROR:
                raise InjectedError
            case Outcome.HANG:
                await run_unless_gone(request.receive, self._service.stopping.wait())
                raise NotReadyError(Phase.STOPPING)
            case Outcome.NORMAL:
                pass

    async def _make(self, path: str, upload: Upload, order: Order) -> tuple[Picture, list[str]]:
        started_s = self._clock.read_s()
        picture = await self._service.make(path, upload, order)
        shown = [] if self._faults.picture is None else ["picture"]
        delay = self._dice.compute_delay(dt.timedelta(seconds=self._clock.read_s() - started_s))
        if delay > dt.timedelta(0):
            await self._clock.sleep(delay)
            shown.append("delay")
        return picture, shown


def create_app(
    *,
    service: Service,
    metrics: Metrics,
    clock: Clock,
    version: str,
    identity: Identity,
    faults: FaultPlan,
    samples: Samples | None = None,
) -> FastAPI:
    """Build the application; its lifespan runs the service.

    Args:
        service: What makes pictures of the photos.
        metrics: Shown at `/metrics`.
        clock: Times answers, and holds them back in a drill.
        version: Sent as `x-model-version` where the path has no model of its own.
        identity: The code and the models, shown at `/models` and `/metrics`.
        faults: What a drill injects; decided here, once, never by a request.
        samples: Where some requests are kept, and shown at `/samples`; None keeps nothing.
    """

    @contextlib.asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(service.run(), name="service")]
            if samples is not None:
                running.append(tasks.create_task(samples.run(), name="samples"))
            try:
                yield
            finally:
                for task in running:
                    task.cancel()

    metrics.show_identity(identity)
    app = FastAPI(title="Hueshift inference worker", version=version, lifespan=live, docs_url=None, redoc_url=None)
    app.add_middleware(
        Observed,
        metrics=metrics,
        clock=clock,
        find_version=lambda path: service.versions.get(path, version),
        is_leaving=lambda: service.phase in {Phase.STOPPING, Phase.FAILED},
    )
    add_error_answers(app, metrics)
    add_probes(app, service, metrics, identity)
    if samples is not None:
        add_samples(app, samples)
    desk = Desk(service=service, metrics=metrics, clock=clock, faults=faults, samples=samples)

    # Starlette's own routes: FastAPI's would look for dependencies and a body model in every request, and find none.
    for path in (COLORIZE_PATH, TRANSFORM_PATH):
        app.add_route(path, desk.answer, methods=["POST"])
    return app
