"""What a load is: what to send, how fast, and its bounds. Pure."""

import dataclasses
import enum
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

MAX_REQUESTS = 20_000_000
MAX_CONNECTIONS = 4_096


class Arrivals(enum.Enum):
    """How paced requests follow each other."""

    UNIFORM = "uniform"
    POISSON = "poisson"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What to send, how fast, and when to stop: at *requests* or after *duration_s*, whichever comes first.

    *rate* is in requests per second; None sends the next request as soon as one is answered (closed loop).
    *watch* names the response headers whose values are recorded. *body_files* are sent in turn.
    """

    port: int
    host: str = "127.0.0.1"
    name: str = "load"
    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body_files: tuple[str, ...] = ()
    rate: float | None = None
    arrivals: Arrivals = Arrivals.UNIFORM
    connections: int = 16
    requests: int = 1_000_000
    duration_s: float = 60.0
    timeout_s: float = 30.0
    watch: tuple[str, ...] = ("x-version", "x-injected-fault")
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.host.startswith("127."):
            raise ValueError("load goes to this machine only")
        if not 1 <= self.connections <= MAX_CONNECTIONS:
            raise ValueError(f"connections: use 1 to {MAX_CONNECTIONS}")
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise ValueError(f"requests: use 1 to {MAX_REQUESTS}")
        if not 0 < self.duration_s <= 86_400:
            raise ValueError("duration_s: use up to a day")
        if not 0 < self.timeout_s <= 600:
            raise ValueError("timeout_s: use up to 600")
        if self.rate is not None and not 0 < self.rate <= 100_000:
            raise ValueError("rate: use up to 100,000 requests/s")

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "LoadPlan":
        """Return the plan whose `to_json` this is."""
        fields = dict(raw)
        for name in ("body_files", "watch"):
            if name in fields:
                fields[name] = tuple(fields[name])
        if "arrivals" in fields:
            fields["arrivals"] = Arrivals(fields["arrivals"])
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "arrivals": self.arrivals.value}

    def render(self, bodies: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return the bytes of each request, one per body (or one without)."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        head = "\r\n".join(lines).encode()
        if not bodies:
            return (head + b"\r\n\r\n",)
        return tuple(b"%s\r\ncontent-length: %d\r\n\r\n%s" % (head, len(body), body) for body in bodies)


class Pacer:
    """Says when the next request is due. Pure: it is told the moment of the start."""

    def __init__(self, rate: float, arrivals: Arrivals, rng: random.Random, *, start: float) -> None:
        self._rate = rate
        self._arrivals = arrivals
        self._rng = rng
        self._origin = start
        self._sent = 0
        self.due = start

    def advance(self) -> None:
        """Move to the next request."""
        self._sent += 1
        if self._arrivals is Arrivals.UNIFORM:
            self.due = self._origin + self._sent / self._rate  # no drift, however long it runs
        else:
            self.due += -math.log(1.0 - self._rng.random()) / self._rate
