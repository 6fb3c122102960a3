"""The state-of-the-world variant, row by row of what naive servers get wrong."""

import pytest

from controlplane.xds.channel import Acked, Ignored, Nacked, Stale
from controlplane.xds.kinds import Kind, ProtocolError
from tests.builders import seconds
from tests.xds import RUNTIME_TYPE, SotwClient, make_cache, make_snapshot, names_of, record

AB = make_snapshot(cds={"a": 1, "b": 1})


def served(**resources: object) -> SotwClient:
    """Return a client of a cache that serves these resources."""
    cache = make_cache()
    cache.publish(record(make_snapshot(**resources)))  # type: ignore[arg-type] # as make_snapshot takes them
    return SotwClient(cache)


def publish(client: SotwClient, **resources: object) -> None:
    client._cache.publish(record(make_snapshot(**resources)))  # type: ignore[arg-type]


# -- subscriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("wildcard-sotw")
def test_empty_names_mean_everything_only_until_a_name_was_given() -> None:
    client = served(cds={"a": 1, "b": 1})
    assert names_of(client.ask(Kind.CDS)) == [(Kind.CDS, ("a", "b"))]
    client.ack(client.last[Kind.CDS])
    client.ask(Kind.CDS, "*", "a")
    client.ack_all()
    publish(client, cds={"a": 1, "b": 2})
    assert names_of(client.ack_all()) == [(Kind.CDS, ("a", "b"))]
    client.ask(Kind.CDS, "a")
    publish(client, cds={"a": 1, "b": 3})
    assert client.ack_all() == []
    publish(client, cds={"a": 2, "b": 3})
    assert names_of(client.ack_all()) == [(Kind.CDS, ("a",))]
    assert client.ask(Kind.CDS) == []
    publish(client, cds={"a": 3, "b": 4})
    assert client.ack_all() == []


@pytest.mark.xds_row("wildcard-sotw")
def test_empty_names_twice_still_mean_everything() -> None:
    client = served(cds={"a": 1})
    client.ask(Kind.CDS)
    client.ack(client.last[Kind.CDS])
    client.ask(Kind.CDS)
    publish(client, cds={"a": 2})
    assert names_of(client.take()) == [(Kind.CDS, ("a",))]


@pytest.mark.xds_row("grpc-clients")
def test_a_client_that_names_its_listener_gets_no_other() -> None:
    client = served(cds={"c": 1}, lds={"x": ("r", 1), "y": ("r", 1)}, rds={"r": (["c"], 1)})
    assert names_of(client.ask(Kind.LDS, "x")) == [(Kind.LDS, ("x",))]
    client.ack(client.last[Kind.LDS])
    publish(client, cds={"c": 1}, lds={"x": ("r", 1), "y": ("r", 2)}, rds={"r": (["c"], 1)})
    assert client.take() == []


@pytest.mark.xds_row("duplicates")
def test_star_and_a_name_send_the_resource_once() -> None:
    client = served(cds={"a": 1, "b": 1})
    assert names_of(client.ask(Kind.CDS, "*", "a")) == [(Kind.CDS, ("a", "b"))]


def test_empty_names_of_endpoints_mean_nothing() -> None:
    assert served(cds={"a": 1}).ask(Kind.EDS) == []


@pytest.mark.xds_row("new-names")
def test_a_name_added_at_the_same_version_is_answered() -> None:
    client = served(cds={"a": 1, "b": 1})
    assert names_of(client.ask(Kind.EDS, "a")) == [(Kind.EDS, ("a",))]
    client.ack(client.last[Kind.EDS])
    assert names_of(client.ask(Kind.EDS, "a", "b")) == [(Kind.EDS, ("b",))]
    client.ack(client.last[Kind.EDS])
    assert client.ask(Kind.EDS, "a") == []
    assert names_of(client.ask(Kind.EDS, "a", "b")) == [(Kind.EDS, ("b",))]


@pytest.mark.xds_row("new-names", "full-state")
def test_a_full_state_name_added_at_the_same_version_brings_all_names() -> None:
    client = served(cds={"a": 1, "b": 1, "c": 1})
    client.ask(Kind.CDS, "a")
    client.ack(client.last[Kind.CDS])
    assert names_of(client.ask(Kind.CDS, "a", "b")) == [(Kind.CDS, ("a", "b"))]


def test_too_many_names_end_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.xds.session.MAX_NAMES", 3)
    client = served(cds={"a": 1})
    with pytest.raises(ProtocolError, match="more than 3"):
        client.ask(Kind.EDS, "1", "2", "3", "4")


# -- what a response holds ---------------------------------------------------------------------------------------------


@pytest.mark.xds_row("full-state")
def test_clusters_always_come_whole_so_that_absence_deletes() -> None:
    client = served(cds={"a": 1, "b": 1, "c": 1})
    client.ask(Kind.CDS)
    client.ack(client.last[Kind.CDS])
    publish(client, cds={"a": 1, "b": 2, "c": 1})
    assert names_of(client.ack_all()) == [(Kind.CDS, ("a", "b", "c"))]


@pytest.mark.xds_row("partial")
def test_one_of_fifty_routes_changes_and_travels_alone() -> None:
    many = {f"r{number}": (["a"], 1) for number in range(50)}
    client = served(cds={"a": 1}, rds=many)
    (everything,) = client.ask(Kind.RDS, *many)
    client.ack(everything)
    publish(client, cds={"a": 1}, rds={**many, "r7": (["a"], 2)})
    (one,) = client.take()
    assert one.names == ("r7",)
    assert one.size < everything.size / 10


@pytest.mark.xds_row("missing-resource", "no-hold")
def test_a_missing_resource_is_remembered_and_sent_when_it_comes() -> None:
    client = served(cds={"a": 1})
    assert names_of(client.ask(Kind.EDS, "a", "later")) == [(Kind.EDS, ("a",))]
    client.ack(client.last[Kind.EDS])
    publish(client, cds={"a": 1, "later": 1})
    assert names_of(client.take()) == [(Kind.EDS, ("later",))]


@pytest.mark.xds_row("missing-resource", "partial")
def test_a_missing_resource_alone_is_met_with_silence() -> None:
    client = served(cds={"a": 1})
    assert client.ask(Kind.EDS, "later") == []
    publish(client, cds={"a": 1, "later": 1})
    assert names_of(client.take()) == [(Kind.EDS, ("later",))]


def test_a_resource_that_went_and_came_back_is_sent_again() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.EDS, "a", "b")
    client.ack(client.last[Kind.EDS])
    publish(client, cds={"a": 1})
    assert client.take() == []
    publish(client, cds={"a": 1, "b": 1})
    assert names_of(client.take()) == [(Kind.EDS, ("b",))]


@pytest.mark.xds_row("push-only-on-change")
def test_identical_content_is_not_pushed() -> None:
    client = served(cds={"a": 1})
    client.ask(Kind.CDS)
    client.ack_all()
    client.ack(client.last[Kind.CDS])
    publish(client, cds={"a": 1})
    assert client.take() == []


@pytest.mark.xds_row("push-only-on-change")
def test_a_change_of_one_kind_is_no_push_of_another() -> None:
    client = served(cds={"a": 1})
    client.ask(Kind.CDS)
    client.ask(Kind.EDS, "a")
    client.ack_all()
    for got in client.last.values():
        client.ack(got)
    publish(client, cds={"a": 1}, eds={"a": 2})
    assert names_of(client.take()) == [(Kind.EDS, ("a",))]


# -- before anything is there ------------------------------------------------------------------------------------------


def test_nothing_is_said_before_the_first_snapshot() -> None:
    cache = make_cache()
    client = SotwClient(cache)
    assert client.ask(Kind.CDS) == []
    assert client.ask(Kind.LDS) == []
    cache.publish(record(AB))
    assert names_of(client.take()) == [(Kind.CDS, ("a", "b")), (Kind.LDS, ())]


def test_an_empty_snapshot_is_no_answer_to_a_client_that_has_something() -> None:
    client = served()
    assert client.ask(Kind.CDS, version="old") == []
    assert client.ask(Kind.LDS, version="old") == []


# -- reconnecting ------------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("sotw-reconnect")
def test_a_named_subscription_is_answered_after_a_reconnect_at_the_same_version() -> None:
    client = served(cds={"a": 1})
    (first,) = client.ask(Kind.EDS, "a")
    again = SotwClient(client._cache)
    assert names_of(again.ask(Kind.EDS, "a", version=first.version)) == [(Kind.EDS, ("a",))]


@pytest.mark.xds_row("nonce")
def test_the_nonce_of_an_old_stream_makes_a_first_request_of_it() -> None:
    client = served(cds={"a": 1})
    (first,) = client.ask(Kind.CDS)
    again = SotwClient(client._cache)
    assert names_of(again.ask(Kind.CDS, version=first.version, nonce=first.nonce)) == [(Kind.CDS, ("a",))]
    assert not isinstance(again.reaction, Acked | Stale)


@pytest.mark.xds_row("sotw-reconnect")
def test_the_version_is_that_of_the_content_over_restarts() -> None:
    first, second = served(cds={"a": 1}), served(cds={"a": 1})
    assert (
        first.ask(Kind.CDS)[0].version
        == second.ask(Kind.CDS)[0].version
        == make_snapshot(cds={"a": 1}).versions[Kind.CDS]
    )


# -- nonces, ACK and NACK ----------------------------------------------------------------------------------------------


@pytest.mark.xds_row("nonce")
def test_nonces_of_successive_responses_differ() -> None:
    client = served(cds={"a": 1})
    nonces = []
    client.ask(Kind.EDS, "a")
    for _ in range(5):
        nonces.append(client.last[Kind.EDS].nonce)
        client.ack(client.last[Kind.EDS])
        assert len(client.ask(Kind.EDS, "a")) == 1
    assert len(set(nonces)) == 5


def test_an_ack_is_heard() -> None:
    client = served(cds={"a": 1})
    (got,) = client.ask(Kind.CDS)
    client.clock.move(seconds(3))
    client.ack(got)
    assert client.reaction == Acked(Kind.CDS, got.version, 3.0)
    client.take()
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
    client.ask(Kind.CDS)
    publish(client, cds={"a": 2}, eds={"a": 5})
    assert client.take() == []
    level = dict(client.session.levels())[Kind.CDS]
    assert (level.acked, level.nacked, level.words) == (good.version, bad.version, "Invalid duration")
    publish(client, cds={"a": 3})
    (better,) = client.take()
    client.ack(better)
    assert client.take() == []
    level = dict(client.session.levels())[Kind.CDS]
    assert (level.acked, level.nacked, level.words) == (better.version, "", "")


def test_going_back_to_the_last_good_content_is_sent_and_acknowledged() -> None:
    client = served(cds={"a": 1}, rds={"r": (["a"], 1)})
    (good,) = client.ask(Kind.RDS, "r")
    client.ack(good)
    publish(client, cds={"a": 1}, rds={"r": (["a"], 2)})
    client.nack(client.take()[0])
    publish(client, cds={"a": 1}, rds={"r": (["a"], 1)})
    (again,) = client.take()
    assert again.versions == good.versions
    client.ack(again)
    client.take()
    assert dict(client.session.levels())[Kind.RDS].acked == good.version


def test_what_came_along_with_a_bad_route_is_sent_again_when_something_changes() -> None:
    client = served(cds={"a": 1}, rds={"r": (["a"], 1), "s": (["a"], 1)})
    (good,) = client.ask(Kind.RDS, "r", "s")
    client.ack(good)
    publish(client, cds={"a": 1}, rds={"r": (["a"], 2), "s": (["a"], 2)})
    client.nack(client.take()[0], "r is bad")
    publish(client, cds={"a": 1}, rds={"r": (["a"], 1), "s": (["a"], 2)})
    assert names_of(client.take()) == [(Kind.RDS, ("r", "s"))]


@pytest.mark.xds_row("stale-nonce-sotw")
def test_a_stale_answer_counts_for_names_only() -> None:
    client = served(cds={"a": 1, "b": 1})
    (first,) = client.ask(Kind.EDS, "a")
    client.ack(first)
    publish(client, cds={"a": 1, "b": 1}, eds={"a": 2})
    (second,) = client.take()
    assert client.ask(Kind.EDS, "a", "b", nonce=first.nonce) == []
    assert isinstance(client.reaction, Stale)
    client.ack(second)
    assert names_of(client.take()) == [(Kind.EDS, ("b",))]


@pytest.mark.xds_row("stale-nonce-sotw")
def test_a_stale_refusal_is_no_refusal() -> None:
    client = served(cds={"a": 1})
    (first,) = client.ask(Kind.CDS)
    client.ack(first)
    publish(client, cds={"a": 2})
    client.take()
    client.nack(first)
    assert isinstance(client.reaction, Stale)
    assert dict(client.session.levels())[Kind.CDS].nacked == ""


def test_the_words_of_a_refusal_are_bounded() -> None:
    client = served(cds={"a": 1})
    client.nack(client.ask(Kind.CDS)[0], "x" * 100_000)
    assert isinstance(client.reaction, Nacked)
    assert len(client.reaction.words) == 4_000


# -- endpoints of changed clusters -------------------------------------------------------------------------------------


@pytest.mark.xds_row("eds-after-cds")
def test_endpoints_are_pushed_again_with_their_changed_cluster_and_answered_when_asked_again() -> None:
    client = served(cds={"a": 1, "b": 1})
    client.ask(Kind.CDS)
    client.ask(Kind.EDS, "a", "b")
    for got in list(client.last.values()):
        client.ack(got)
    publish(client, cds={"a": 2, "b": 1})
    pushed = client.take()
    assert names_of(pushed) == [(Kind.CDS, ("a", "b")), (Kind.EDS, ("a",))]
    client.ack(pushed[1])
    assert names_of(client.ask(Kind.EDS, "a", "b")) == [(Kind.EDS, ("a", "b"))]


@pytest.mark.xds_row("no-hold")
def test_only_some_of_all_names_are_answered_at_once() -> None:
    client = served(cds={"a": 1, "b": 1})
    assert names_of(client.ask(Kind.EDS, "b")) == [(Kind.EDS, ("b",))]


# -- who and what ------------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("node")
def test_the_node_is_only_in_the_first_request() -> None:
    client = served(cds={"a": 1})
    client.ask(Kind.CDS)
    client.ack_all()
    assert client.session.node is not None
    assert client.session.node.id == "n1"


@pytest.mark.xds_row("node")
def test_a_stream_without_a_node_ends() -> None:
    client = SotwClient(make_cache(), node="")
    with pytest.raises(ProtocolError, match=r"node\.id"):
        client.ask(Kind.CDS)


@pytest.mark.xds_row("unknown-type")
def test_an_unknown_type_is_ignored_and_the_stream_lives() -> None:
    client = served(cds={"a": 1})
    assert client.raw(RUNTIME_TYPE) == Ignored(RUNTIME_TYPE)
    assert client.take() == []
    assert names_of(client.ask(Kind.CDS)) == [(Kind.CDS, ("a",))]


@pytest.mark.xds_row("unknown-type")
def test_an_empty_type_ends_the_stream() -> None:
    with pytest.raises(ProtocolError, match="type_url"):
        served(cds={"a": 1}).raw("")
