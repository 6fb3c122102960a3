"""Servers that tests of several files start."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.file_server import DATA, FileServer, Manners, Told


@pytest.fixture
def serve() -> Iterator[Callable[..., FileServer]]:
    """Start file servers: `serve(etag=None)`; of one file, `/m.onnx`, unless told otherwise."""
    with contextlib.ExitStack() as stack:

        def start(**manners: object) -> FileServer:
            server = stack.enter_context(FileServer(Manners(**{"files": {"/m.onnx": DATA}} | manners)))  # type: ignore[arg-type] # by name
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


@pytest.fixture
def told() -> Told:
    return Told()
