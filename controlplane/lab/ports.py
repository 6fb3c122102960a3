"""Ports of loopback for servers that have to be told theirs, and that may be started on it again."""

import atexit
import collections
import socket
from typing import Final

KEPT: Final = 256
"""Ports that are kept at once: more than any one run has, and few enough for what a process may have open."""

_kept: Final[collections.deque[socket.socket]] = collections.deque()


def free_ports(count: int) -> tuple[int, ...]:
    """Return *count* ports that the kernel found free, and that it gives to nobody else as long as this process lives.

    It would otherwise give them to any connection that goes out, before a server listens or while it starts again. So
    a socket that never listens stays bound to each. A server has to set ``SO_REUSEADDR``, as nearly all do, to be bound
    beside it (socket(7)); with `KEPT` newer ones a port is let go.
    """
    taken = [_bind() for _ in range(count)]
    _kept.extend(taken)
    while len(_kept) > max(KEPT, count):
        _kept.popleft().close()
    return tuple(int(each.getsockname()[1]) for each in taken)


def _bind() -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


@atexit.register
def _let_go() -> None:
    while _kept:
        _kept.popleft().close()
