"""How the API itself does: requests and seconds by route, never by path, so that nobody can grow the series."""

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.clock import Clock


class RequestMetrics:
    """Counts and times every request."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._requests = Counter(
            "hueshift_api_requests", "Requests to the REST API.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "hueshift_api_request_seconds", "Time to the end of the answer.", ("route",), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and watch its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        started = self._clock.steady()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if route != "unknown" else "ANY"
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(route).observe(self._clock.steady() - started)
