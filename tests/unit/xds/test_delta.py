"""The incremental variant, row by row of what naive servers get wrong."""

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.xds.channel import Acked, Ignored, Level, Nacked, Stale
from controlplane.xds.kinds import Kind, ProtocolError
from tests.xds import RUNTIME_TYPE, DeltaClient, Got, make_cache, make_snapshot, names_of, record


def served(**resources: object) -> DeltaClient:
    """Return a client of a cache that serves these resources."""
    cache = make_cache()
    cache.publish(record(make_snapshot(**resources)))  # type: ignore[arg-type] # as make_snapshot takes them
    return DeltaClient(cache)


def publish(client: DeltaClient, **resources: object) -> None:
    client._cache.publish(record(make_snapshot(**resources)))  # type: ignore[arg-type]


def only(found: list[Got]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the one response sends and removes."""
    (got,) = found
    return got.names, got.removed


# -- subscriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("wildcard-delta")
def test_a_first_request_without_names_means_everything_until_the_star_is_dropped() -> None:
    client = served(cds={"a": 1, "b": 1})
    assert only(client.ask(Kind.CDS)) == (("a", "b"), ())
    client.ack(client.last[Kind.CDS])
    assert only(client.ask(Kind.CDS, "a")) == (("a",), ())
    client.ack(client.last[Kind.CDS])
    publish(client, cds={"a": 1, "b": 2})
    assert only(client.ack_all()) == (("b",), ())
    assert client.ask(Kind.CDS, drop=["*"]) == []
    publish(client, cds={"a": 2, "b": 3})
    assert only(client.ack_all()) == (("a",), ())
    assert client.ask(Kind.CDS, drop=["a"]) == []
    publish(client, cds={"a": 3, "b": 4})
    assert client.take() == []


@pytest.mark.xds_row("wildcard-delta")
def test_a_client_that_names_its_cluster_gets_no_other_until_it_asks_for_all() -> None:
    client = served(cds={"a": 1, "b": 1})
    assert only(client.ask(Kind.CDS, "a")) == (("a",), ())
    client.ack(client.last[Kind.CDS])
    assert only(client.ask(Kind.CDS, "*")) == (("b",), ())


@pytest.mark.xds_row("duplicates")
def test_star_and_a_name_send_the_resource_once() -> None:
    assert only(served(cds={"a": 1, "b": 1}).ask(Kind.CDS, "*", "a")) == (("a", "b"), ())


@pytest.mark.xds_row("explicit-resubscribe")
def test_a_name_that_is_asked_for_again_is_answered_again() -> None:
    client = served(cds={"a": 1})
    for _ in range(3):
        assert only(client.ask(Kind.EDS, "a")) == (("a",), ())
        client.ack(client.last[Kind.EDS])


@pytest.mark.xds_row("unsubscribe-delta")
def test_dropping_a_name_that_was_never_asked_for_changes_nothing() -> None:
    client = served(cds={"a": 1})
    client.ask(Kind.CDS)
    client.ack_all()
    client.ack(client.last[Kind.CDS])
    assert client.ask(Kind.CDS, drop=["never", "a"]) == []
    publish(client, cds={"a": 2})
    assert only(client.take()) == (("a",), ())


@pytest.mark.xds_row("unsubscribe-delta")
def test_dropping_a_name_under_a_star_tells_what_is_there() -> None:
    client = served(cds={"a": 1})
    client.ask(Kind.CDS, "*", "a", "gone")
    client.ack(client.last[Kind.CDS])
    assert only(client.ask(Kind.CDS, drop=["a", "gone"])) == (("a",), ("gone",))


@pytest.mark.xds_row("unsubscribe-delta", "new-names")
def test_a_dropped_name_is_forgotten() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.EDS, "a", "b")
    client.ack(client.last[Kind.EDS])
    assert client.ask(Kind.EDS, drop=["b"]) == []
    publish(client, cds={"a": 1, "b": 1}, eds={"b": 2})
    assert client.take() == []
    assert only(client.ask(Kind.EDS, "b")) == (("b",), ())


def test_too_many_names_end_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.xds.session.MAX_NAMES", 3)
    client = served(cds={"a": 1})
    client.ask(Kind.EDS, "1", "2")
    with pytest.raises(ProtocolError, match="more than 3"):
        client.ask(Kind.EDS, "3", "4")


# -- what a response holds ---------------------------------------------------------------------------------------------


@pytest.mark.xds_row("partial")
def test_one_of_fifty_clusters_changes_and_travels_alone() -> None:
    many = {f"c{number:02}": 1 for number in range(50)}
    client = served(cds=many)
    (everything,) = client.ask(Kind.CDS)
    client.ack(everything)
    publish(client, cds={**many, "c07": 2})
    (one,) = client.take()
    assert one.names == ("c07",)
    assert one.size < everything.size / 10


@pytest.mark.xds_row("missing-resource", "on-demand", "no-hold")
def test_a_missing_resource_is_denied_at_once_and_sent_when_it_comes() -> None:
    client = served(cds={"a": 1})
    assert only(client.ask(Kind.EDS, "later")) == ((), ("later",))
    client.ack(client.last[Kind.EDS])
    publish(client, cds={"a": 1, "later": 1})
    assert only(client.take()) == (("later",), ())


@pytest.mark.xds_row("removed-delta")
def test_a_removal_is_told_once_and_a_return_again() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.CDS)
    client.ack(client.last[Kind.CDS])
    publish(client, cds={"a": 1})
    assert only(client.ack_all()) == ((), ("b",))
    publish(client, cds={"a": 1, "b": 1})
    assert only(client.ack_all()) == (("b",), ())


@pytest.mark.xds_row("removed-delta")
def test_a_removal_is_not_told_to_who_never_had_it() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.CDS, "a")
    client.ack(client.last[Kind.CDS])
    publish(client, cds={"a": 1})
    assert client.take() == []


@pytest.mark.xds_row("removed-delta", "slow-client")
def test_a_stalled_client_learns_of_a_removal_that_happened_meanwhile() -> None:
    client = served(cds={"a": 1, "b": 1, "c": 1})
    (first,) = client.ask(Kind.CDS)
    publish(client, cds={"a": 2, "b": 1, "c": 1})
    publish(client, cds={"a": 3, "c": 1})
    publish(client, cds={"a": 4, "c": 1, "d": 1})
    assert client.take() == []
    client.ack(first)
    assert only(client.take()) == (("a", "d"), ("b",))


@pytest.mark.xds_row("push-only-on-change")
def test_identical_content_is_not_pushed() -> None:
    client = served(cds={"a": 1})
    client.ask(Kind.CDS)
    client.ack(client.last[Kind.CDS])
    publish(client, cds={"a": 1})
    assert client.take() == []


def test_nothing_is_said_before_the_first_snapshot() -> None:
    cache = make_cache()
    client = DeltaClient(cache)
    assert client.ask(Kind.CDS, has={"a": "1"}) == []
    cache.publish(record(make_snapshot(cds={"b": 1})))
    assert only(client.take()) == (("b",), ("a",))


def test_an_empty_snapshot_takes_nothing_away() -> None:
    client = served()
    assert client.ask(Kind.CDS, has={"a": "1"}) == []
    assert only(served().ask(Kind.CDS)) == ((), ())


# -- reconnecting ------------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("initial-versions")
def test_a_reconnect_gets_what_changed_and_what_is_gone_and_nothing_else() -> None:
    before = make_snapshot(cds={"a": 1, "b": 1, "c": 1})
    has = {name: resource.version for name, resource in before.resources[Kind.CDS].items()}
    client = served(cds={"a": 1, "c": 2})  # another process: versions are hashes of content
    assert only(client.ask(Kind.CDS, has=has)) == (("c",), ("b",))


@pytest.mark.xds_row("initial-versions")
def test_a_reconnect_in_step_gets_nothing_and_counts_as_acknowledged() -> None:
    before = make_snapshot(cds={"a": 1})
    has = {name: resource.version for name, resource in before.resources[Kind.CDS].items()}
    client = served(cds={"a": 1})
    assert client.ask(Kind.CDS, has=has) == []
    assert dict(client.session.levels())[Kind.CDS].acked == before.versions[Kind.CDS]


def test_a_named_reconnect_gets_only_what_differs() -> None:
    before = make_snapshot(cds={"a": 1, "b": 1, "c": 1})
    has = {name: resource.version for name, resource in before.resources[Kind.EDS].items()}
    client = served(cds={"a": 1, "b": 1}, eds={"b": 2})
    assert only(client.ask(Kind.EDS, "a", "b", "c", has=has)) == (("b",), ("c",))


@pytest.mark.xds_row("initial-versions")
def test_names_and_a_star_are_both_restored() -> None:
    before = make_snapshot(cds={"a": 1, "b": 1})
    has = {name: resource.version for name, resource in before.resources[Kind.CDS].items()}
    client = served(cds={"a": 1, "b": 2, "c": 1})
    assert only(client.ask(Kind.CDS, "*", "a", has=has)) == (("b", "c"), ())


@pytest.mark.xds_row("nonce")
def test_the_nonce_of_an_old_stream_makes_a_first_request_of_it() -> None:
    client = served(cds={"a": 1})
    assert only(client.ask(Kind.CDS, nonce="77")) == (("a",), ())
    assert not isinstance(client.reaction, Acked | Stale)


# -- nonces, ACK and NACK ----------------------------------------------------------------------------------------------


@pytest.mark.xds_row("stale-nonce-delta")
def test_a_subscription_under_a_stale_nonce_or_none_is_honoured() -> None:
    client = served(cds={"a": 1, "b": 1, "c": 1})
    (first,) = client.ask(Kind.EDS, "a")
    client.ack(first)
    publish(client, cds={"a": 1, "b": 1, "c": 1}, eds={"a": 2})
    (second,) = client.take()
    client.ask(Kind.EDS, "b", nonce=first.nonce)
    assert isinstance(client.reaction, Stale)
    client.ask(Kind.EDS, "c")
    client.ack(second)
    assert only(client.take()) == (("b", "c"), ())


def test_an_ack_is_heard() -> None:
    client = served(cds={"a": 1})
    (got,) = client.ask(Kind.CDS)
    client.ack(got)
    assert client.reaction == Acked(Kind.CDS, got.version, 0.0)
    assert dict(client.session.levels())[Kind.CDS].acked == got.version


@pytest.mark.xds_row("nack")
def test_a_nack_is_heard_once_and_its_content_never_resent() -> None:
    client = served(cds={"a": 1})
    (good,) = client.ask(Kind.CDS)
    client.ack(good)
    publish(client, cds={"a": 2})
    (bad,) = client.take()
    client.nack(bad, "Invalid duration")
    assert client.reaction == Nacked(Kind.CDS, bad.version, "Invalid duration")
    assert client.take() == []
    publish(client, cds={"a": 2}, eds={"a": 5})
    assert client.take() == []
    level = dict(client.session.levels())[Kind.CDS]
    assert (level.acked, level.nacked, level.words) == (good.version, bad.version, "Invalid duration")
    publish(client, cds={"a": 1})
    (back,) = client.take()
    assert back.versions == good.versions
    client.ack(back)
    level = dict(client.session.levels())[Kind.CDS]
    assert (level.acked, level.nacked, level.words) == (good.version, "", "")


def test_a_removal_that_was_refused_is_told_again_when_something_changes() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.CDS)
    client.ack(client.last[Kind.CDS])
    publish(client, cds={"a": 2})
    (bad,) = client.take()
    assert (bad.names, bad.removed) == (("a",), ("b",))
    client.nack(bad)
    assert client.take() == []
    publish(client, cds={"a": 3})
    assert only(client.take()) == (("a",), ("b",))


@pytest.mark.xds_row("nonce")
def test_nonces_of_successive_responses_differ() -> None:
    client = served(cds={"a": 1})
    nonces = set()
    for _ in range(5):
        client.ask(Kind.EDS, "a")
        nonces.add(client.last[Kind.EDS].nonce)
        client.ack(client.last[Kind.EDS])
    assert len(nonces) == 5


# -- what a response may be --------------------------------------------------------------------------------------------


@pytest.mark.xds_row("message-size")
def test_much_at_once_comes_in_parts_that_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.xds.responses.MAX_PART_BYTES", 200)
    clusters = {f"c{number}": 1 for number in range(10)}
    client = served(cds=clusters)
    (first,) = client.ask(Kind.CDS)
    assert 1 < len(first.names) < 10
    assert client.take() == []
    client.ack(first)
    assert dict(client.session.levels())[Kind.CDS].acked == ""
    rest = client.ack_all()
    assert [*first.names, *(name for got in rest for name in got.names)] == sorted(clusters)
    assert dict(client.session.levels())[Kind.CDS].acked == make_snapshot(cds=clusters).versions[Kind.CDS]


@pytest.mark.xds_row("message-size")
def test_a_resource_that_is_too_large_for_a_part_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.xds.responses.MAX_PART_BYTES", 1)
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.EDS, "a", "b", "gone")
    client.ack(client.last[Kind.EDS])
    assert (client.last[Kind.EDS].names, client.last[Kind.EDS].removed) == (("a",), ("gone",))
    assert only(client.ack_all()) == (("b",), ())


@pytest.mark.xds_row("ttl")
def test_nothing_expires() -> None:
    client = served(cds={"a": 1})
    response = discovery_pb2.DeltaDiscoveryResponse.FromString(client.ask(Kind.CDS)[0].data)
    assert not any(resource.HasField("ttl") for resource in response.resources)


# -- what long hunts found ---------------------------------------------------------------------------------------------


def test_saying_yes_to_something_else_does_not_undo_a_refusal() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.nack(client.ask(Kind.EDS, "a")[0])
    (other,) = client.ask(Kind.EDS, "b")
    client.ack(other)
    assert client.take() == []
    level = dict(client.session.levels())[Kind.EDS]
    assert (level.acked, level.nacked, level.words) == ("", other.version, "bad")
    publish(client, cds={"a": 1, "b": 1}, eds={"b": 2})
    assert only(client.take()) == (("a", "b"), ())


def test_what_was_refused_and_is_no_longer_wanted_does_not_come_again() -> None:
    client = served(cds={"a": 1, "b": 1})
    (bad,) = client.ask(Kind.EDS, "a", "b")
    client.ask(Kind.EDS, drop=["b"])
    client.nack(bad)
    publish(client, cds={"a": 1, "b": 1}, eds={"a": 2})
    assert only(client.take()) == (("a",), ())


def test_a_removal_that_was_asked_about_is_told_once() -> None:
    client = served(cds={"a": 1, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
    client.ask(Kind.LDS)  # its routes it has not asked for yet, so the past is kept for it
    client.ask(Kind.CDS)
    for got in tuple(client.last.values()):
        client.ack(got)
    publish(client, cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
    assert client.take() == []
    assert names_of(client.ask(Kind.CDS, "gone")) == [(Kind.CDS, ())]
    client.ack_all()
    assert client.last[Kind.CDS].removed == ("gone",)


# -- the rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("eds-after-cds")
def test_endpoints_are_pushed_again_with_their_changed_cluster() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.CDS)
    client.ask(Kind.EDS, "a", "b")
    for got in list(client.last.values()):
        client.ack(got)
    publish(client, cds={"a": 2, "b": 1})
    assert names_of(client.take()) == [(Kind.CDS, ("a",)), (Kind.EDS, ("a",))]


@pytest.mark.xds_row("unknown-type")
def test_an_unknown_type_is_ignored_and_the_stream_lives() -> None:
    client = served(cds={"a": 1})
    assert client.raw(RUNTIME_TYPE) == Ignored(RUNTIME_TYPE)
    assert client.take() == []
    assert only(client.ask(Kind.CDS)) == (("a",), ())


@pytest.mark.xds_row("unknown-type")
def test_an_empty_type_ends_the_stream() -> None:
    with pytest.raises(ProtocolError, match="type_url"):
        served(cds={"a": 1}).raw("")


def test_a_refused_removal_of_what_is_wanted_no_more_leaves_nothing_behind() -> None:
    client = served(cds={"a": 1})
    (gone,) = client.ask(Kind.RDS, "r")
    assert (gone.names, gone.removed) == ((), ("r",))
    client.ask(Kind.RDS, drop=["r"])
    client.nack(gone)
    assert client.take() == []
    assert dict(client.session.levels())[Kind.RDS] == Level()
