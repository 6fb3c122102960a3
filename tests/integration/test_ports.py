"""Ports that are kept for servers."""

import socket

import pytest

from controlplane.lab import ports
from controlplane.lab.ports import free_ports

pytestmark = pytest.mark.integration


def listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def test_a_kept_port_is_given_to_nobody_and_a_server_listens_on_it_again_and_again() -> None:
    (port,) = free_ports(1)
    for _ in range(2):
        with listen(port), socket.create_connection(("127.0.0.1", port)) as client:
            assert client.getpeername()[1] == port
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    with socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind(("127.0.0.1", port))  # as a connection that goes out is bound
    with listen(port), pytest.raises(OSError, match="in use"):
        listen(port)


def test_all_are_different_and_the_oldest_are_let_go() -> None:
    (old,) = free_ports(1)
    newer = free_ports(ports.KEPT)
    assert len({old, *newer}) == ports.KEPT + 1
    assert {place.getsockname()[1] for place in ports._kept} == set(newer)
