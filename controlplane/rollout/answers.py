"""How requests end: which answers are no success, by what names people call them, and how many of a tick fit.

Where a gRPC call failed in Envoy, this counts on what was measured of Envoy 1.40. An upstream that cannot be reached,
that resets before it answers or is over its limits, none that is healthy: the cluster counts HTTP 503 *and* gRPC status
14. The route's time-out: 504 and 14 (not 4). An answer of the upstream with a gRPC status is 200 and that status,
wherever the status stands, deadlines that the server enforced (4) included. One with HTTP 503 or 429 and no gRPC status
is that alone. A call that is reset or times out after the headers is 200 and has no gRPC status at all: nothing here
can tell it from a success.

So one call may be an HTTP status and the gRPC status that Envoy makes of it (`grpc_status_of`), and nothing says of how
many calls that is true. It is taken to be true of as many as can be: of 503s and status 14, the larger number counts.
Where proxies behind Envoy answer 503 without a gRPC status while servers answer 14, that is too few; never too many,
but for servers that send both an HTTP status and another gRPC status than its own.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Codes: TypeAlias = tuple[tuple[str, int], ...]
"""Requests per status that is no success, in order of the names."""

GRPC_STATUSES: Final[Mapping[str, int]] = {
    "cancelled": 1,
    "unknown": 2,
    "invalid-argument": 3,
    "deadline-exceeded": 4,
    "not-found": 5,
    "already-exists": 6,
    "permission-denied": 7,
    "resource-exhausted": 8,
    "failed-precondition": 9,
    "aborted": 10,
    "out-of-range": 11,
    "unimplemented": 12,
    "internal": 13,
    "unavailable": 14,
    "data-loss": 15,
    "unauthenticated": 16,
}
"""gRPC's statuses but OK, as `count_answers` spells them after ``grpc-``."""

HTTP_BAD_KINDS: Final = ("5xx", "429")
"""What an HTTP service is blamed for by default: its own failures, with the resets and time-outs that Envoy answers for
it (503, 504), and turning work away, which a version that is too slow does before it fails."""

GRPC_BAD_KINDS: Final = (
    "5xx",
    *("grpc-unknown", "grpc-deadline-exceeded", "grpc-resource-exhausted", "grpc-unimplemented"),
    *("grpc-internal", "grpc-unavailable", "grpc-data-loss"),
)
"""The same for a gRPC service: the statuses that servers answer for their own faults. UNKNOWN is what most libraries
make of an exception, UNIMPLEMENTED what a version without a method answers. 5xx stays in: what answered without a gRPC
status is in no other, and an Envoy whose bootstrap is older than these statistics reports nothing else."""

HTTP_CLIENT_KINDS: Final = ("4xx",)
"""Answers that blame the caller. A version may still cause them: its share of them is compared with the baseline's,
since both get the same callers. What counts as failed (429) does not count here as well."""

GRPC_CLIENT_KINDS: Final = (
    *("grpc-invalid-argument", "grpc-not-found", "grpc-already-exists", "grpc-permission-denied"),
    *("grpc-failed-precondition", "grpc-aborted", "grpc-out-of-range", "grpc-unauthenticated"),
)
"""The same for a gRPC service. CANCELLED is in neither list: the caller no longer wanted the answer. HTTP's 4xx are not
here, since servers that answer one add a gRPC status of no fixed number, and the call would count twice."""

_GRPC_OF_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_GRPC_OF_OTHERS: Final = 2


def grpc_status_of(status: int) -> int:
    """Return the gRPC status that Envoy, and gRPC's own specification, give to an HTTP status that is no success."""
    return _GRPC_OF_HTTP.get(status, _GRPC_OF_OTHERS)


@dataclasses.dataclass(frozen=True, slots=True)
class _Kinds:
    """Kinds, read: whole classes, and single statuses as `Codes` spells them."""

    classes: frozenset[str]
    codes: frozenset[str]

    def has(self, code: str) -> bool:
        return code in self.codes or (f"{code[0]}xx" in self.classes and code.isdecimal())


@functools.lru_cache(maxsize=1_024)
def _read_kinds(kinds: tuple[str, ...]) -> _Kinds:
    classes, codes = set(), set()
    for kind in kinds:
        if kind in {"4xx", "5xx"}:
            classes.add(kind)
        elif kind.isascii() and kind.isdecimal() and len(kind) == 3 and kind[0] in "45":
            codes.add(kind)
        elif (status := GRPC_STATUSES.get(kind.removeprefix("grpc-"))) is not None and kind.startswith("grpc-"):
            codes.add(f"grpc-{status}")
        elif kind in _GRPC_NUMBERS:
            codes.add(kind)
        else:
            raise ValueError(
                f"{kind!r} is no kind of answer; give 4xx, 5xx, a status such as 429, or a gRPC status such as "
                "grpc-unavailable or grpc-14"
            )
    return _Kinds(frozenset(classes), frozenset(codes))


_GRPC_NUMBERS: Final = frozenset(f"grpc-{status}" for status in GRPC_STATUSES.values())


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse what `count_answers` would.

    Raises:
        ValueError: A kind is spelled in no known way.
    """
    _read_kinds(tuple(kinds))


def add_codes(mine: Codes, theirs: Codes) -> Codes:
    """Add up the requests per status."""
    if not (mine and theirs):
        return mine or theirs
    total = dict(mine)
    for code, count in theirs:
        total[code] = total.get(code, 0) + count
    return tuple(sorted(total.items()))


def count_answers(codes: Codes, kinds: Sequence[str], *, server_errors: int, completed: int) -> int:
    """Count completed requests that ended as one of *kinds* says, each once, whichever kinds it fits.

    Args:
        codes: Requests per status.
        kinds: ``5xx`` (answered by *server_errors*, so where there are no codes too), ``4xx``, a status such as
            ``429``, or one of `GRPC_STATUSES` by its name or number: ``grpc-unavailable``, ``grpc-14``.
        server_errors: Requests that ended with 5xx.
        completed: All that ended.

    Raises:
        ValueError: A kind is spelled in no known way.
    """
    wanted = _read_kinds(tuple(kinds))
    whole = "5xx" in wanted.classes
    if not codes:
        return server_errors if whole else 0
    if codes[-1][0][0] != "g":  # in order of the names, gRPC's come last: without any there is nothing to match up
        total = server_errors if whole else 0
        for code, count in codes:
            if code in wanted.codes or ("4xx" in wanted.classes and code[0] == "4"):
                total += 0 if whole and code[0] == "5" else count
        return min(total, completed)
    return min(_count_with_grpc(codes, wanted, server_errors if whole else 0), completed)


def _count_with_grpc(codes: Codes, wanted: _Kinds, server_errors: int) -> int:
    http: dict[int, int] = {}
    grpc: dict[int, int] = {}
    total = server_errors
    for code, count in codes:
        if code.isdecimal():
            if "5xx" in wanted.classes and code[0] == "5":
                total -= count
            if wanted.has(code):
                status = grpc_status_of(int(code))
                http[status] = http.get(status, 0) + count
        elif wanted.has(code):
            grpc[int(code.removeprefix("grpc-"))] = count
    return total + sum(max(http.get(status, 0), grpc.get(status, 0)) for status in http.keys() | grpc.keys())
