"""What an Envoy runs against what it should run, from its row and what is stored."""

import dataclasses
import datetime as dt

import pytest

from controlplane.controller.inspection import Sync, _compare, _secrets, is_in_sync, kinds_of, since, sync_of
from controlplane.ports import NAMED, ConfigResource, TypeStatus
from tests.builders import NOW, make_node, make_snapshot, seconds

CLUSTERS = "Error adding/updating cluster(s) b: no certificate, bb: no certificate"
OTHER = "Proto constraint validation failed"


def at(moment: float) -> dt.datetime:
    return NOW + seconds(moment)


def resources(**versions: str) -> dict[str, ConfigResource]:
    return {name: ConfigResource(name, version, b"") for name, version in versions.items()}


def seen(words: str) -> dict[str, tuple[Sync, str, bool]]:
    """Return how each is: "a" is changed well, "b" badly, "c" is new and good, "bb" new and bad, "d" as it was."""
    runs, new = resources(a="1", b="1", d="1"), resources(a="2", b="2", bb="1", c="1", d="1")
    held = _compare(runs, new, new, words)
    return {each.name: (each.sync, each.runs.version if each.runs else "", each.taken) for each in held}


def test_of_clusters_that_are_refused_one_by_one_the_good_ones_run() -> None:
    assert seen(CLUSTERS) == {
        "a": (Sync.SYNCED, "2", True),
        "b": (Sync.NACKED, "1", False),
        "bb": (Sync.NACKED, "", False),
        "c": (Sync.SYNCED, "1", True),
        "d": (Sync.SYNCED, "1", False),
    }


def test_of_what_is_refused_whole_nothing_new_runs() -> None:
    assert seen(OTHER) == {
        "a": (Sync.NACKED, "1", False),
        "b": (Sync.NACKED, "1", False),
        "bb": (Sync.NACKED, "", False),
        "c": (Sync.NACKED, "", False),
        "d": (Sync.SYNCED, "1", False),
    }


def test_secrets_are_those_that_the_listeners_name_in_the_version_of_their_type() -> None:
    listeners = {
        name: ConfigResource(name, "1", b"", secrets=secrets) for name, secrets in (("l", ("x", "y")), ("m", ("x",)))
    }
    held = _secrets(listeners, TypeStatus(sent="s2", acked="s1", acked_at=NOW), Sync.STALE)
    assert [(each.name, each.sync, each.runs) for each in held] == [
        (name, Sync.STALE, ConfigResource(name, "s1", None)) for name in ("x", "y")
    ]
    (refused, _) = _secrets(listeners, TypeStatus(sent="s2", acked="s1", nacked="s2", words="bad"), Sync.NACKED)
    assert (refused.sync, refused.refused) == (Sync.NACKED, ConfigResource("x", "s2", None))
    assert [each.sync for each in _secrets(listeners, TypeStatus(), Sync.NOT_SENT)] == [Sync.NOT_SENT] * 2
    assert _secrets({}, TypeStatus(), Sync.NOT_SENT) == ()


@pytest.mark.parametrize(
    ("status", "wanted", "moment"),
    [
        (TypeStatus(sent="2", acked="2", acked_at=at(5)), "2", at(5)),
        (TypeStatus(sent="2", acked="1", acked_at=at(5), nacked="2", nacked_at=at(9)), "2", at(9)),
        (TypeStatus(), "2", at(0)),
        # Stale since the newer one was to be served, not before it ran what it runs, nor before it came.
        (TypeStatus(sent="2", acked="1", acked_at=at(5)), "2", at(20)),
        (TypeStatus(sent="1", acked="1", acked_at=at(30)), "2", at(30)),
        (TypeStatus(sent="2"), "2", at(20)),
    ],
)
def test_an_age_begins_when_it_became_so(status: TypeStatus, wanted: str, moment: dt.datetime) -> None:
    node = dataclasses.replace(make_node(), connected_at=at(0))
    snapshot = make_snapshot(at=at(20))
    assert since(status, sync_of(status, wanted), node, snapshot) == moment


def test_an_envoy_is_in_sync_when_it_runs_all_types_that_have_something_to_run() -> None:
    node = make_node(acked="1")
    assert is_in_sync(node, {"cds": "1", "eds": "", "lds": "1", "rds": "1"})
    assert not is_in_sync(node, {"cds": "1", "rds": "2"})
    assert not is_in_sync(dataclasses.replace(node, types={}), {"cds": "1"})
    assert is_in_sync(dataclasses.replace(node, types={}), {})


def test_further_types_are_shown_where_there_are_any() -> None:
    node = dataclasses.replace(make_node(), types={"sds": TypeStatus()})
    assert kinds_of(node, ["lds", f"lds{NAMED}", "xds"]) == ("cds", "eds", "lds", "rds", "sds", "xds")
