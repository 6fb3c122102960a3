"""The REST API as benches and drills use it: typed, asynchronous, and patient while the control plane is down."""

import datetime as dt
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from controlplane.api.answers import EventView, ExplanationView, ReplayView, RolloutView, StatusView
from controlplane.api.fleet_answers import ProxyView
from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError, UnavailableError

T = TypeVar("T")

POLL = dt.timedelta(milliseconds=200)
PATIENCE = dt.timedelta(seconds=120)
"""How long a control plane may be away: on a machine that others share, a start alone can take many seconds."""


class ApiRefusalError(ControlPlaneError):
    """The API said no; the text is its own."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


async def wait_for_answer(
    ask: Callable[[], Awaitable[T | None]],
    *,
    what: str,
    clock: Clock,
    at_most: dt.timedelta,
    every: dt.timedelta = POLL,
) -> T:
    """Ask until the answer is not None, and return it.

    Raises:
        UnavailableError: There was none in time.
    """
    deadline = clock.steady() + at_most.total_seconds()
    while True:
        answer = await ask()
        if answer is not None:
            return answer
        if clock.steady() >= deadline:
            raise UnavailableError(f"{what}: not within {at_most.total_seconds():g} s")
        await clock.sleep(every)


class ApiClient:
    """One user of the API.

    Args:
        port: Where the API listens, on loopback.
        key_file: Holds the API key; read at the first request, since the control plane's first start writes it.
        clock: For waiting.
    """

    def __init__(self, port: int, *, key_file: Path, clock: Clock) -> None:
        self._key_file = key_file
        self._clock = clock
        # No pool of old connections: the control plane is killed and started again under them.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, limits=limits, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def is_up(self, path: str = "/healthz") -> bool:
        """Whether a probe answers 200."""
        try:
            return (await self._http.get(path)).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def apply(self, document: Mapping[str, Any]) -> None:
        """Declare a service."""
        await self._ask("PUT", f"/v1/services/{document['service']}", document)

    async def delete(self, service: str) -> None:
        """Serve a service no more."""
        await self._ask("DELETE", f"/v1/services/{service}")

    async def start(
        self, service: str, *, to: str, plan: Mapping[str, Any] | None = None, why: str = "lab", **more: Any
    ) -> str:
        """Start a rollout, once, however often the request must be repeated; return its id."""
        # A drill tries the same version as often as it likes.
        body = {"to": to, "why": why, "again": True, **({"plan": plan} if plan else {}), **more}
        return str((await self._ask("POST", f"/v1/services/{service}/rollouts", body))["id"])

    async def command(self, service: str, verb: str, *, why: str = "lab", **more: Any) -> None:
        """Pause, resume, promote, abort, undo or retry."""
        await self._ask("POST", f"/v1/services/{service}/rollout/{verb}", {"why": why, **more})

    async def set_split(self, service: str, weights: Mapping[str, str]) -> None:
        """Set the live split by hand; weights as in "25%"."""
        await self._ask("PUT", f"/v1/services/{service}/split", {"weights": dict(weights), "why": "lab"})

    async def rollout(self, rollout: str) -> RolloutView:
        """Return a rollout."""
        return RolloutView.model_validate(await self._ask("GET", f"/v1/rollouts/{rollout}"))

    async def status(self, service: str) -> StatusView:
        """Return everything about a service."""
        return StatusView.model_validate(await self._ask("GET", f"/v1/services/{service}/status"))

    async def explain(self, service: str) -> ExplanationView:
        """Return why a service's rollout stands where it stands."""
        return ExplanationView.model_validate(await self._ask("GET", f"/v1/services/{service}/explain"))

    async def replay(self, rollout: str) -> ReplayView:
        """Have a rollout's record judged again, by its own objectives."""
        return ReplayView.model_validate(await self._ask("POST", f"/v1/rollouts/{rollout}/replay", {}))

    async def history(self, service: str, *, rollout: str | None = None) -> tuple[EventView, ...]:
        """Return what happened last, oldest first."""
        query = f"?rollout={rollout}" if rollout else ""
        found = await self._ask("GET", f"/v1/services/{service}/history{query}")
        return tuple(EventView.model_validate(entry) for entry in reversed(found["items"]))

    async def proxies(self) -> tuple[ProxyView, ...]:
        """Return the Envoys."""
        return tuple(
            ProxyView.model_validate(row) for row in (await self._ask("GET", "/v1/proxies?limit=1000"))["items"]
        )

    async def wait_rollout(
        self,
        rollout: str,
        is_there: Callable[[RolloutView], bool],
        *,
        at_most: dt.timedelta,
        every: dt.timedelta = POLL,
    ) -> RolloutView:
        """Wait until *is_there* holds or the rollout has ended; return it.

        Raises:
            UnavailableError: Neither came in time; the text says where it stood.
        """
        last: RolloutView | None = None

        async def ask() -> RolloutView | None:
            nonlocal last
            last = await self.rollout(rollout)
            return last if is_there(last) or not last.active else None

        try:
            return await wait_for_answer(ask, what=rollout, clock=self._clock, at_most=at_most, every=every)
        except UnavailableError as exc:
            stood = f"{last.phase} at {last.weight}: {last.words or last.evidence}" if last else "unknown"
            raise UnavailableError(f"{exc}; it is {stood}") from exc

    async def wait_fleet(self, *, envoys: int = 1, at_most: dt.timedelta = PATIENCE) -> None:
        """Wait until *envoys* Envoys are connected and run the newest snapshot whole."""

        async def ask() -> bool | None:
            synced = [
                proxy
                for proxy in await self.proxies()
                if proxy.connected and all(kind.status == "SYNCED" for kind in proxy.types)
            ]
            return True if len(synced) >= envoys else None

        await wait_for_answer(ask, what=f"{envoys} Envoys in sync", clock=self._clock, at_most=at_most)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask until there is an answer: a control plane that is down now will be back."""
        headers = {"idempotency-key": uuid.uuid4().hex} if method != "GET" else {}

        async def ask() -> httpx.Response | None:
            try:
                headers["authorization"] = f"Bearer {self._key_file.read_text().strip()}"
                answer = await self._http.request(method, path, json=body, headers=headers)
            except (httpx.TransportError, FileNotFoundError):
                return None
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        answer = await wait_for_answer(ask, what=f"{method} {path}", clock=self._clock, at_most=PATIENCE)
        if answer.is_error:
            raise ApiRefusalError(answer.status_code, _words(answer))
        return answer.json() if answer.content else None


def _words(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


DEFAULT_SLOS: tuple[Mapping[str, Any], ...] = (
    {"name": "errors", "kind": "error_rate", "max": "1%"},
    {"name": "latency", "kind": "latency", "threshold": "400ms", "quantile": "95%"},
)


def service_document(
    name: str,
    *,
    port: int,
    endpoints: Mapping[str, int],
    plan: Mapping[str, Any] | None = None,
    slos: Sequence[Mapping[str, Any]] = DEFAULT_SLOS,
) -> dict[str, Any]:
    """Return the declaration of a service on loopback; *endpoints* is a port per version, the first has all traffic."""
    return {
        "service": name,
        "listener": {"address": "127.0.0.1", "port": port},
        "versions": [{"name": version, "endpoints": [f"127.0.0.1:{at}"]} for version, at in endpoints.items()],
        "routes": [{"name": "all", "split": True}],
        "slos": list(slos),
        **({"plan": plan} if plan else {}),
    }
