"""`hueshift proxies` and `hueshift proxy NODE`: who is there, what each runs, how that differs from what it should."""

import dataclasses
import json
from typing import Any

import pytest
import yaml

from controlplane.ports import (
    ClusterHealth,
    CompiledConfig,
    NodeStatus,
    PastRefusal,
    SnapshotRecord,
    SnapshotStatus,
    TypeStatus,
)
from controlplane.traffic.model import ServedService, TrafficPlan
from controlplane.xds.snapshot import SnapshotCompiler
from tests import builders
from tests.unit.cli.conftest import Cli, Ended

NOW = builders.NOW
NODE = "edge-1"
WORDS = "Only a single wildcard domain\n[red]\x1b[2J is permitted"


def compiled(**weights_bp: int) -> CompiledConfig:
    service = ServedService(builders.make_spec(), builders.make_split(**weights_bp))
    return SnapshotCompiler().compile(TrafficPlan((service,), {}))


OLD, NEW = compiled(v1=10_000), compiled(v1=7_500, v2=2_500)


def publish(cli: Cli, config: CompiledConfig, *, group: str = "") -> None:
    record = SnapshotRecord(
        version=config.version,
        versions=config.versions,
        revisions={},
        content=config.content,
        status=SnapshotStatus.PROPOSED,
        words="",
        at=cli.world.clock.now(),
        group=group,
    )
    cli.do(cli.world.store.propose_snapshot, record)


def node(name: str = NODE, *, runs: CompiledConfig = OLD, group: str = "lab", **types: TypeStatus) -> NodeStatus:
    synced = {kind: TypeStatus(sent=version, acked=version, acked_at=NOW) for kind, version in runs.versions.items()}
    return dataclasses.replace(
        builders.make_node(name), group=group, user_agent="envoy 1.40.0", types={**synced, **types}
    )


def connect(cli: Cli, *nodes: NodeStatus) -> None:
    cli.do(cli.world.store.record_nodes, nodes)


def in_words(text: str) -> str:
    return " ".join(text.split())


def refusing(**more: Any) -> NodeStatus:
    new, old = NEW.versions["rds"], OLD.versions["rds"]
    return node(rds=TypeStatus(sent=new, acked=old, acked_at=NOW, nacked=new, words=WORDS, nacked_at=NOW, **more))


@pytest.fixture
def synced(cli: Cli) -> Cli:
    publish(cli, OLD)
    connect(cli, node())
    cli.world.clock.move(builders.seconds(90))
    return cli


@pytest.fixture
def stale(synced: Cli) -> Cli:
    publish(synced, NEW)
    synced.world.clock.move(builders.seconds(5))
    return synced


# -- proxies -----------------------------------------------------------------------------------------------------------


def test_without_envoys_there_is_a_way_to_start_one(cli: Cli) -> None:
    assert "no Envoy has connected yet" in cli("proxies").out
    ended = cli("proxies", "--check")
    assert (ended.code, ended.lines) == (1, ["hueshift: no Envoy is connected"])


def test_envoys_are_one_line_each(stale: Cli) -> None:
    connect(stale, dataclasses.replace(node("edge-2"), disconnected_at=NOW, types={}))
    header, first, second, gap, total = stale("proxies").out.splitlines()
    assert header.split() == ["NODE", "GROUP", "CONNECTED", "CDS", "LDS", "EDS", "RDS", "REPLICA"]
    assert in_words(first) == "edge-1 lab yes, 95s ✔ SYNCED 95s ✔ SYNCED 95s ✔ SYNCED 95s ◌ STALE 5s one"
    assert in_words(second) == "edge-2 lab left 95s" + " • NOT SENT 95s" * 4 + " one"
    assert (gap, total) == ("", "1 connected: 1 STALE; 1 not connected")


def test_what_was_refused_is_still_said_when_the_envoy_is_back_in_step(synced: Cli) -> None:
    rds = OLD.versions["rds"]
    connect(synced, node(rds=TypeStatus(rds, rds, NOW, last_refusal=PastRefusal("b4d", "no\nregex", NOW))))
    _, row, gap, words, *_ = synced("proxies").out.splitlines()
    assert "SYNCED" in row
    assert (gap, words) == ("", "edge-1 refused RDS b4d 90s ago: no regex")
    assert "edge-1 refused RDS b4d 90s ago" in in_words(synced("proxy", NODE).out)
    assert synced("proxy", NODE, "diff") == Ended(0, "", "")  # it runs what it should


def test_wide_adds_columns_and_whole_versions(stale: Cli) -> None:
    header, first, *_ = stale("proxies", "-o", "wide").out.splitlines()
    assert header.split()[-5:] == ["REPLICA", "CLUSTER", "USER", "AGENT", "VARIANT"]
    assert f"STALE 5s {OLD.versions['rds']} → {NEW.versions['rds']}" in in_words(first)
    assert in_words(first).endswith("one edge envoy 1.40.0 delta")


def test_json_and_yaml_say_the_same(stale: Cli) -> None:
    found = json.loads(stale("proxies", "-o", "json").out)
    assert found == yaml.safe_load(stale("proxies", "-o", "yaml").out)
    assert [(proxy["node"], proxy["synced"]) for proxy in found] == [(NODE, False)]


def test_envoys_are_chosen_by_state(stale: Cli) -> None:
    connect(stale, node("edge-2", runs=NEW))
    assert [proxy["node"] for proxy in json.loads(stale("proxies", "--state", "stale", "-o", "json").out)] == [NODE]
    assert len(json.loads(stale("proxies", "--state", "synced", "-o", "json").out)) == 2
    assert stale("proxies", "--state", "nacked").out == "no Envoy is NACKED\n"
    assert stale("proxies", "--state", "sleepy").code == 2


def test_envoys_are_held_against_the_snapshot_of_their_group(synced: Cli) -> None:
    spec = dataclasses.replace(builders.make_spec(), groups=("lab",))
    synced.do(synced.world.store.apply, spec, by="ada", why="", now=NOW)
    publish(synced, NEW, group="lab")
    connect(synced, node("edge-2", runs=NEW), node("edge-3", group="shop"))
    found = {proxy["node"]: proxy for proxy in json.loads(synced("proxies", "-o", "json").out)}
    assert {name: (proxy["served_group"], proxy["synced"]) for name, proxy in found.items()} == {
        "edge-1": ("lab", False),
        "edge-2": ("lab", True),
        "edge-3": ("", True),
    }
    ended = synced("proxies", "--check")
    assert (ended.code, ended.lines) == (1, ["hueshift: not in sync: edge-1"])
    assert (synced("proxies", "--group", "shop", "--check").code, synced("proxies", "--group", "lab").code) == (0, 0)
    assert [proxy["node"] for proxy in json.loads(synced("proxies", "--group", "shop", "-o", "json").out)] == ["edge-3"]
    assert synced("proxies", "--group", "x", "--state", "stale").out == "no Envoy is of group x and STALE\n"
    assert "Group: lab Program" in in_words(synced("proxy", NODE).out)
    assert synced("proxy", NODE, "diff").code == 1
    assert synced("proxy", "edge-3", "diff").code == 0


def test_a_check_is_0_only_when_all_who_are_there_are_in_sync(synced: Cli) -> None:
    connect(synced, dataclasses.replace(node("edge-2", runs=NEW), disconnected_at=NOW))
    assert (synced("proxies", "--check").code, synced("proxies").code) == (0, 0)
    publish(synced, NEW)
    ended = synced("proxies", "--check")
    assert (ended.code, ended.lines) == (1, ["hueshift: not in sync: edge-1"])
    # What is printed may be less than what is checked.
    assert synced("proxies", "--check", "--state", "nacked").code == 1


def test_the_words_of_a_refusal_are_below_the_table_and_cannot_move_the_cursor(synced: Cli) -> None:
    publish(synced, NEW)
    connect(synced, refusing())
    ended = synced("proxies")
    assert "✖ NACKED 90s one" in in_words(ended.out)
    assert f"NACKED 90s {OLD.versions['rds']} → {NEW.versions['rds']}" in in_words(synced("proxies", "-o", "wide").out)
    words = ended.out.splitlines()[3]
    said = f"(edge-1) refused RDS {NEW.versions['rds']}: Only a single wildcard domain [red] [2J is permitted"
    assert words == f"Error [HS0109] {said}; run: hueshift proxy edge-1 diff"
    assert "\x1b" not in ended.out


# -- proxy NODE --------------------------------------------------------------------------------------------------------


def lines(ended: Ended) -> list[str]:
    assert ended.code == 0
    return [in_words(line) for line in ended.out.splitlines()]


def test_an_envoy_that_is_not_known_is_4_and_the_others_are_named(synced: Cli) -> None:
    ended = synced("proxy", "edge-9")
    assert (ended.code, ended.lines) == (4, ["hueshift: Envoy 'edge-9' does not exist (known: edge-1)"])
    assert synced("proxy", NODE, "secrets").code == 2


def test_a_summary_says_who_it_is_and_what_it_runs(stale: Cli) -> None:
    page = in_words(stale("proxy", NODE).out)
    assert "Node: edge-1 Cluster: edge Group: lab (no service names it: served as every Envoy is)" in page
    assert "Program: envoy 1.40.0 Connected: yes, 95s Replica: one Variant: delta" in page
    old, new = OLD.versions["rds"][:8], NEW.versions["rds"][:8]
    assert f"RDS ◌ STALE 5s {old} {new} 1: colorize_routes" in page
    assert "CDS ✔ SYNCED 95s" in page
    assert "2: colorize_v1, colorize_v2" in page
    plain = json.loads(stale("proxy", NODE, "-o", "json").out)
    assert plain["proxy"]["node"] == NODE
    assert [each["type"] for each in plain["types"]] == ["cds", "eds", "lds", "rds"]


def test_routes_are_a_table(cli: Cli) -> None:
    publish(cli, NEW)
    connect(cli, node(runs=NEW))
    header, pinned, main = lines(cli("proxy", NODE, "routes"))
    assert header == "ROUTES VIRTUAL HOST DOMAINS MATCH TIMEOUT TO STATUS"
    assert pinned.startswith("colorize_routes colorize_host * /repair* x-version=v1 x-pin present 300s")
    assert "colorize_v1 100%" in pinned
    assert "/* 12.500s colorize_v1 75%, colorize_v2 25% ✔ SYNCED" in main


def test_clusters_and_endpoints_come_with_the_health_that_the_envoy_reports(synced: Cli) -> None:
    synced.do(
        synced.world.report_health, ClusterHealth(NODE, "colorize_v1", 1, 2), ClusterHealth("x", "colorize_v2", 1, 1)
    )
    header, first, second = lines(synced("proxy", NODE, "clusters"))
    assert header == "CLUSTER TYPE LB CONNECT HEALTH CHECK HEALTHY STATUS"
    assert first.startswith(
        "colorize_v1 EDS ROUND_ROBIN 10s GET /healthz every 1s, timeout 1s, up after 1, down after 2 1/2"
    )
    assert "down after 2 - ✔ SYNCED" in second
    header, first, _ = lines(synced("proxy", NODE, "endpoints"))
    assert header == "CLUSTER ADDRESS WEIGHT HEALTHY STATUS"
    assert first.startswith("colorize_v1 127.0.0.1:8083 - 1/2 ✔ SYNCED")


def test_listeners_are_a_table(synced: Cli) -> None:
    header, first = lines(synced("proxy", NODE, "listeners"))
    assert header == "LISTENER ADDRESS FILTERS ROUTES STATUS"
    assert first.startswith("colorize_listener 127.0.0.1:8080 http_connection_manager colorize_routes ✔ SYNCED")


def test_programs_get_the_resources_themselves(synced: Cli) -> None:
    (routes,) = json.loads(synced("proxy", NODE, "routes", "-o", "json").out)
    assert routes["@type"] == "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    assert routes["virtual_hosts"][0]["routes"][1]["route"]["weighted_clusters"]["clusters"] == [
        {"name": "colorize_v1", "weight": 10_000}
    ]
    assert [routes] == yaml.safe_load(synced("proxy", NODE, "routes", "-o", "yaml").out)


# -- diff --------------------------------------------------------------------------------------------------------------


def test_no_difference_is_0_and_no_words(synced: Cli) -> None:
    assert synced("proxy", NODE, "diff") == Ended(0, "", "")
    assert json.loads(synced("proxy", NODE, "diff", "-o", "json").out) == []


def test_a_difference_is_1_and_a_unified_diff(stale: Cli) -> None:
    ended = stale("proxy", NODE, "diff")
    assert ended.code == 1
    first, second, *rest = ended.out.splitlines()
    assert first.startswith("--- rds/colorize_routes runs ")
    assert second.startswith("+++ rds/colorize_routes wanted ")
    assert [in_words(line) for line in rest if line.startswith(("-", "+"))] == [
        "- weight: 10000",
        "+ weight: 7500",
        "+ - name: colorize_v2",
        "+ weight: 2500",
    ]
    (plain,) = json.loads(stale("proxy", NODE, "diff", "-o", "json").out)
    assert (plain["type"], plain["name"]) == ("rds", "colorize_routes")


def test_the_words_of_a_refusal_come_first(stale: Cli) -> None:
    connect(stale, refusing())
    ended = stale("proxy", NODE, "diff")
    assert ended.code == 1
    assert ended.out.splitlines()[0].startswith("Error [HS0109] (edge-1) refused RDS ")
    assert "weight: 7500" in ended.out


def test_an_envoy_that_runs_nothing_lacks_everything(synced: Cli) -> None:
    connect(synced, dataclasses.replace(node(), types={}))
    ended = synced("proxy", NODE, "diff")
    assert ended.code == 1
    assert "--- cds/colorize_v1 runs nothing" in ended.out
    assert synced("proxy", NODE, "routes").out.split() == [
        "ROUTES",
        *["VIRTUAL", "HOST", "DOMAINS", "MATCH", "TIMEOUT", "TO", "STATUS"],
    ]


def test_what_is_no_longer_stored_is_said_and_not_guessed(stale: Cli) -> None:
    connect(stale, node(rds=TypeStatus(sent="ancient", acked="ancient", acked_at=NOW)))
    words = "edge-1 runs version ancient of routes, which is no longer stored: only its own /config_dump can say what"
    for what in ("summary", "routes"):
        assert words in in_words(stale("proxy", NODE, what).out)
    ended = stale("proxy", NODE, "diff")
    assert ended.code == 1
    assert words in in_words(ended.out)


def test_what_another_release_stored_is_not_guessed_either(cli: Cli) -> None:
    publish(cli, dataclasses.replace(OLD, content=b"\xff"))
    connect(cli, node())
    ended = cli("proxy", NODE)
    assert ended.code == 0
    assert "not known any more" in ended.out


def test_before_there_is_a_snapshot_there_is_nothing_to_differ_from(cli: Cli) -> None:
    connect(cli, dataclasses.replace(node(), types={}))
    ended = cli("proxy", NODE, "diff")
    assert (ended.code, ended.out) == (0, "there is nothing that it should run yet\n")


# -- ready -------------------------------------------------------------------------------------------------------------


def test_a_service_waits_for_an_envoy_and_for_healthy_workers(cli: Cli) -> None:
    cli.do(cli.world.declare)
    publish(cli, OLD)
    cli.later(cli.world.store.record_nodes, (node(),))
    cli.later(cli.world.report_health, ClusterHealth(NODE, "colorize_v1", 1, 2))
    ended = cli("ready", "colorize", "--timeout", "5s")
    assert ended.lines == [
        "waiting: no Envoy is connected; start one with: hueshift envoy --node-id NAME",
        "waiting: no Envoy finds a healthy worker of v1",
    ]
    assert (ended.code, ended.out) == (0, "colorize is ready\n")
