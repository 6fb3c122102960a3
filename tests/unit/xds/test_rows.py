"""What naive xDS servers get wrong, row by row, and that each row has its tests; `-m xds_row` runs them.

A test takes a row by ``@pytest.mark.xds_row("name of the row")``; it is found by reading the sources, so that the tests
with a real Envoy count where they are not run.
"""

import ast
import pathlib
from collections import defaultdict

import pytest

TESTS = pathlib.Path(__file__).parents[2]

ROWS = {
    "wildcard-sotw": "empty names mean everything until a name was given, then nothing",
    "wildcard-delta": "a first request without names means everything until the star is dropped",
    "grpc-clients": "who names listeners gets only those; naming nothing after a reconnect is no wildcard",
    "full-state": "a state-of-the-world response of clusters or listeners has all of them: absence deletes",
    "partial": "of routes and endpoints only what changed is sent; that something is gone cannot be said",
    "new-names": "names that are new at an unchanged version are answered",
    "eds-after-cds": "endpoints come again with their changed cluster, which warms until then",
    "no-hold": "what exists is answered, although not everything was asked for or exists",
    "missing-resource": "what does not exist yet is remembered (delta: denied at once), and sent when it comes",
    "removed-delta": "a removal is told once, to those who had it; what returns is sent again",
    "initial-versions": "on a reconnect only what changed is sent, and what is gone is removed",
    "sotw-reconnect": "named resources are answered on a new stream whatever version the client had",
    "explicit-resubscribe": "a name that is subscribed to again is answered again",
    "stale-nonce-sotw": "a stale answer is neither ACK nor NACK; its names count",
    "stale-nonce-delta": "subscriptions count under any nonce",
    "nonce": "successive nonces differ, and one of an old stream means nothing",
    "nack": "a refusal is heard with its words, and its content is never sent again",
    "push-only-on-change": "the same content is not pushed",
    "duplicates": "one response has no name twice",
    "order": "clusters, endpoints, listeners, routes; clusters leave after the routes to them",
    "rds-not-warmed": "no route goes out before its clusters are acknowledged",
    "node": "the node is taken from the first request, and needed there",
    "unknown-type": "an unknown type is ignored, an empty one ends the stream",
    "on-demand": "a spontaneous subscription to what is not there is answered at once",
    "unsubscribe-delta": "dropping what was never asked for changes nothing; under a star it is answered",
    "ttl": "nothing that is sent expires, so there are no heartbeats",
    "slow-client": "a slow client costs one pending response, delays nobody, and gets the last of many changes",
    "debounce": "the first of many changes goes out at once, and the last arrives",
    "reconnect-storm": "a thousand streams return at once, and share what is serialised for them",
    "keepalive": "pings are answered however many come, and a peer that hangs is noticed",
    "message-size": "messages of more than 4 MiB go out whole where they must, and in parts where they can",
    "streams-per-connection": "two hundred streams share a connection",
    "stream-end": "a thousand streams come and go, however they end, and leave nothing behind",
    "shutdown": "a stop sends clients elsewhere, and traffic goes on meanwhile",
    "rest": "a poll for what the client has is answered with 304, also by the process after this one",
}

WITH_ENVOY = ("eds-after-cds", "nack", "order", "rds-not-warmed", "initial-versions", "keepalive", "shutdown", "rest")
"""The risky ones: what Envoy makes of it is the point."""


def rows_of(node: ast.AST) -> list[str]:
    """Return the rows that a test function is marked with."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
        return []
    marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
    mine = [mark for mark in marks if ast.unparse(mark.func) == "pytest.mark.xds_row"]
    return [str(ast.literal_eval(name)) for mark in mine for name in mark.args]


def found() -> dict[str, list[tuple[str, str]]]:
    """Return the file and name of each test, by row."""
    tests = defaultdict(list)
    for file in sorted(TESTS.rglob("test_*.py")):
        source = file.read_text("utf-8")
        if "xds_row" in source:
            for node in ast.walk(ast.parse(source)):
                for row in rows_of(node):
                    tests[row].append((file.name, node.name))  # type: ignore[attr-defined] # a function
    return tests


FOUND = found()


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_tests(row: str) -> None:
    assert FOUND[row], f"no test is marked with xds_row({row!r}): {ROWS[row]}"


@pytest.mark.parametrize("row", WITH_ENVOY)
def test_the_risky_rows_have_a_test_with_a_real_envoy(row: str) -> None:
    assert {"test_xds_envoy.py", "test_envoy_process.py"} & {file for file, _ in FOUND[row]}


def test_no_test_is_marked_with_a_row_that_is_none() -> None:
    assert FOUND.keys() <= ROWS.keys()
