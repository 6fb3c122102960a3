"""What workers said that they serve, as rows."""

import dataclasses

from controlplane.ports import Store
from controlplane.wake import Topic
from tests.builders import NOW, make_pin, make_report, make_spec, pinned, seconds
from tests.contract.conftest import Ears


async def test_a_pin_is_part_of_the_revision(store: Store) -> None:
    spec = pinned(make_spec(), pin=make_pin(code="1.2"))
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    revision, is_new = await store.apply(spec, by="ada", why="", now=NOW)
    assert (revision.number, is_new, revision.spec) == (2, True, spec)
    assert (await store.load_service("colorize")).served.spec == spec


async def test_reports_are_kept_by_cluster_and_address(store: Store) -> None:
    first, second = make_report(), make_report("10.0.0.2:8083", words="it cannot be reached", at=None)
    other = make_report(cluster="colorize_v1", pin=make_pin("v1"))
    await store.record_models([first, second, other])
    assert await store.load_models() == (other, second, first)
    assert await store.load_models(["colorize_v2"]) == (second, first)
    assert await store.load_models([]) == ()
    newer = make_report(pin=make_pin(digit="c"), at=NOW + seconds(5))
    await store.record_models([newer], gone=[("colorize_v2", "10.0.0.2:8083"), ("colorize_v9", "10.0.0.9:1")])
    assert await store.load_models() == (other, newer)


async def test_only_what_says_something_new_is_announced(store: Store, ears: Ears) -> None:
    await store.record_models([make_report()])
    assert await ears.hears(Topic.FLEET, at_most=seconds(5))
    await store.record_models([dataclasses.replace(make_report(), at=NOW + seconds(9))])
    await store.record_models([], gone=[("colorize_v9", "10.0.0.9:1")])
    assert not await ears.hears(Topic.FLEET, at_most=seconds(0))
    await store.record_models([dataclasses.replace(make_report(), words="it cannot be reached")])
    assert await ears.hears(Topic.FLEET, at_most=seconds(5))
    await store.record_models([], gone=[("colorize_v2", "127.0.0.1:8083")])
    assert await ears.hears(Topic.FLEET, at_most=seconds(5))
