"""Declaring, starting, steering and looking, from the command line."""

import io
import json
import pathlib
import sys
from typing import Any

import httpx
import pytest

from controlplane.ports import ClusterHealth, Occurrence, Rollout, TypeStatus
from controlplane.rollout.model import Abort, Baking, Pause, PauseCause, Paused, Promote, RollbackCause, RolledBack
from tests import builders
from tests.fakes import make_envoy, make_picky_envoy
from tests.unit.api.test_rollouts import EVIDENCE
from tests.unit.cli.conftest import Cli

NOW = builders.NOW
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
ENDPOINT_FIX = "write host:port, for example worker:8083 or [::1]:8083"
SHIPPED = str(pathlib.Path(__file__).parents[3] / "deploy" / "colorize.yaml")


def in_words(ended_text: str) -> str:
    """Return text with its spaces made even: tables pad."""
    return " ".join(ended_text.split())


# -- lint and apply ----------------------------------------------------------------------------------------------------


def test_lint_needs_no_server(cli: Cli) -> None:
    ended = cli("lint", "-f", SHIPPED)
    assert (ended.code, ended.err) == (0, "")
    assert "service colorize is valid: 4 versions, 3 routes, 2 objectives, 5 steps" in ended.out
    assert "Envoy's own validation: not used (HUESHIFT_VALIDATE_WITH_ENVOY is off)" in ended.out
    assert json.loads(cli("lint", "-f", SHIPPED, "-o", "json").out)["valid"] is True
    assert cli.bridge.requests == []


def declaration(name: str, *, port: int, domains: str = "['*']", regex: str = "a", slo: str = "max: 1%") -> str:
    return (
        f"service: {name}\nlistener: {{port: {port}}}\ndomains: {domains}\n"
        f"versions: [{{name: v1, endpoints: ['127.0.0.1:8083']}}]\n"
        f"routes: [{{name: odd, match: {{headers: [{{name: x-odd, regex: '{regex}'}}]}}, version: v1}},\n"
        f"  {{name: all, split: true}}]\nslos: [{{name: errors, kind: error_rate, {slo}}}]\n"
    )


def test_lint_tells_everything_that_is_wrong_in_all_files_and_documents(cli: Cli, tmp_path: pathlib.Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(declaration("shop", port=0) + "---\n" + declaration("desk", port=8081, slo="maximum: 1%"))
    two.write_text(declaration("shop", port=8082, slo="max: 200%"))
    ended = cli("lint", "-f", str(one), "-f", str(two), "-f", str(tmp_path / "none.yaml"))
    assert (ended.code, ended.out) == (2, "")
    assert [line.partition(";")[0].replace(f"{tmp_path}/", "") for line in ended.lines] == [
        "hueshift: one.yaml: document[1].listener.port: 0 is not a port",
        "hueshift: one.yaml: document[2].slos.errors.max: is missing",
        "hueshift: one.yaml: document[2].slos.errors.maximum: is not a field here",
        "hueshift: two.yaml: slos.errors.max: 200% is out of range",
        "hueshift: --file: none.yaml cannot be read (No such file or directory)",
    ]


def test_lint_checks_what_envoys_would_be_sent_and_how_services_go_together(cli: Cli, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(declaration("shop", port=8080, domains="[A.example, a.example]"))
    assert "domains: 'a.example' is claimed 2 times" in cli("lint", "-f", str(file)).err
    file.write_text(declaration("shop", port=8080) + "---\n" + declaration("desk", port=8080))
    assert "listener.shop_listener.port: 0.0.0.0:8080 is taken by 'desk_listener'" in cli("lint", "-f", str(file)).err
    file.write_text("\n---\n".join(f"groups: [{name}]\n" + declaration(name, port=8080) for name in ("shop", "desk")))
    assert cli("lint", "-f", str(file)).code == 0, "no Envoy has both"
    file.write_text(declaration("shop", port=8080) + "---\n" + declaration("shop", port=8081))
    assert "service: 'shop' is declared twice" in cli("lint", "-f", str(file)).err
    file.write_text(declaration("shop", port=8080) + "---\n" + declaration("desk", port=8081))
    assert cli("lint", "-f", str(file)).code == 0


def test_lint_asks_the_envoy_of_this_machine(cli: Cli, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = make_picky_envoy(tmp_path, "(odd)b")
    cli.environment |= {"HUESHIFT_VALIDATE_WITH_ENVOY": "auto", "HUESHIFT_ENVOY": str(binary)}
    monkeypatch.setattr(sys, "stdin", io.StringIO(declaration("shop", port=8080, regex="(odd)b")))
    ended = cli("lint", "-f", "-", "-f", SHIPPED, "-o", "json")
    assert ended.code == 2
    told = json.loads(ended.out)
    assert (told["valid"], [service["source"] for service in told["services"]]) == (False, ["-", SHIPPED])
    assert told["problems"] == [
        {"field": "routes.odd", "problem": "Envoy refuses it: no good", "fix": "change it; a regex has RE2's syntax"}
    ]
    ended = cli("lint", "-f", SHIPPED)
    assert (ended.code, f"Envoy's own validation: used ({binary})" in ended.out) == (0, True)
    make_envoy(tmp_path, "exit 3")
    assert f"Envoy's own validation: no answer from {binary}" in cli("lint", "-f", SHIPPED).out


@pytest.mark.parametrize("command", ["lint", "apply"])
def test_everything_that_is_wrong_with_a_file_is_told_before_anything_is_sent(
    cli: Cli, tmp_path: pathlib.Path, command: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "service: colorize\nversions: [{name: v1, endpoints: [w]}]\nroutes: [{name: all, split: true}]\n"
        "slos: [{name: errors, kind: error_rate}]\n"
    )
    ended = cli(command, "-f", str(file))
    assert (ended.code, ended.out) == (2, "")
    assert ended.lines == [
        f"hueshift: versions.v1.endpoints[1]: 'w' is not an endpoint; {ENDPOINT_FIX}",
        "hueshift: slos.errors.max: is missing; add max: 1%",
    ]
    assert cli.bridge.requests == []


def test_a_file_that_cannot_be_read_is_named(cli: Cli, tmp_path: pathlib.Path) -> None:
    ended = cli("apply", "-f", str(tmp_path / "none.yaml"))
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert "none.yaml cannot be read (No such file or directory)" in ended.err
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-8 text" in cli("lint", "-f", str(tmp_path / "binary.yaml")).err
    (tmp_path / "broken.yaml").write_text("a: [1")
    assert "broken.yaml:1:6" in cli("lint", "-f", str(tmp_path / "broken.yaml")).err


def test_apply_declares_and_says_when_nothing_changed(cli: Cli) -> None:
    assert cli("apply", "-f", SHIPPED, "--why", "größer").out == "colorize is now at revision 1\n"
    assert cli("apply", "-f", SHIPPED).out == "colorize is unchanged\n"
    assert json.loads(cli("apply", "-f", SHIPPED, "-o", "json").out)["changed"] is False
    ((who, what, words),) = cli.do(cli.world.audit)
    assert (who, what) == ("ada", "apply")
    assert "größer" in words


def test_a_declaration_can_come_from_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(pathlib.Path(SHIPPED).read_text("utf-8")))
    assert cli("apply", "-f", "-").code == 0


# -- list, start -------------------------------------------------------------------------------------------------------


def test_the_list_starts_empty_and_says_what_to_do(cli: Cli) -> None:
    assert "hueshift apply -f FILE" in cli("list").out
    assert json.loads(cli("list", "-o", "json").out) == []


def test_the_list_has_one_line_per_service(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.declare, name="style", port=9090)
    cli.do(cli.world.move, cli.do(cli.world.roll), Baking(step=1, since=NOW))
    header, colorize, style = cli("list").out.splitlines()
    assert header.split() == ["NAME", "LISTENER", "SPLIT", "REVISION", "ROLLOUT", "STATE", "STEP", "WEIGHT"]
    assert in_words(colorize) == "colorize 127.0.0.1:8080 v1 75% v2 25% ◌ 1 proposed colorize-1 ◌ baking 2/4 25%"
    assert in_words(style).endswith("- - - -")


def test_a_start_says_what_began_and_how_to_follow_it(cli: Cli) -> None:
    cli.do(cli.world.declare)
    ended = cli("start", "colorize", "--to", "v2", "--steps", "25,50%, 100", "--hold", "10s", "--why", "better blues")
    assert ended.code == 0
    assert ended.out.startswith("colorize-1: v1 → v2 ◌ preparing, step 0/3, weight 0%")
    assert "hueshift get colorize -w" in ended.out
    rollout = json.loads(cli("status", "colorize", "--timeout", "0s", "-o", "json").out)
    assert [(step["weight"], step["hold"]) for step in rollout["plan"]["steps"]] == [
        ("25%", "10s"),
        ("50%", "10s"),
        ("100%", "10s"),
    ]
    assert (rollout["by"], rollout["why"]) == ("ada", "better blues")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--to", "v9"), 4, "version 'v9' does not exist (known: v1, v2)"),
        (("--to", "v1"), 4, "'v1' already has all traffic"),
        (("--to", "v2", "--from", "v9"), 4, "'v9' has no traffic of 'colorize' to give; versions that have: v1"),
        (("--to", "v2", "--steps", "25,500"), 2, "--steps: 500% is out of range; use 0% to 100%"),
        (("--to", "v2", "--steps", "25,many"), 2, "--steps: 'many%' is not a percentage; write it like 5%"),
        (("--to", "v2", "--steps", "25,50"), 2, "plan.steps: ends at 50 %; let the last step be 100 %"),
        (("--to", "v2", "--steps", "100", "--hold", "9"), 2, "steps[1].hold: 9 has no unit"),
        (("--to", "v2", "--hold", "9s"), 2, "--hold: is given without --steps; add --steps, as 25,50,100"),
        ((), 2, "Missing option '--to'; see hueshift start --help"),
        (("--to", "v2", "--fast"), 2, "No such option: --fast"),
        (("--to", "v2", "-o", "xml"), 2, "xml"),
    ],
)
def test_a_senseless_start_ends_with_one_line_and_its_code(
    cli: Cli, arguments: tuple[str, ...], code: int, words: str
) -> None:
    cli.do(cli.world.declare)
    ended = cli("start", "colorize", *arguments)
    assert (ended.code, ended.out, len(ended.lines)) == (code, "", 1), ended
    assert words in ended.err


def test_a_second_rollout_and_dead_workers_are_refused_with_4(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.connect, "edge-1")
    cli.do(cli.world.report_health, ClusterHealth("edge-1", "colorize_v2", 0, 1))
    ended = cli("start", "colorize", "--to", "v2")
    assert ended.code == 4
    assert "0 of 1 workers healthy; start the workers or check health_check.path" in ended.err
    cli.do(cli.world.report_health, ClusterHealth("edge-1", "colorize_v2", 1, 1))
    assert cli("start", "colorize", "--to", "v2").code == 0
    assert cli("start", "colorize", "--to", "v2").code == 4


def test_a_start_whose_connection_breaks_is_repeated_and_done_once(cli: Cli) -> None:
    class Breaking(httpx.BaseTransport):
        """Loses the first answer."""

        broken = False

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = cli.bridge.handle_request(request)
            if request.method == "POST" and not self.broken:
                self.broken = True
                raise httpx.ReadError("connection reset")
            return answer

    cli.do(cli.world.declare)
    cli.transport = Breaking()
    assert cli("start", "colorize", "--to", "v2").code == 0
    assert len(cli.do(cli.world.store.list_rollouts)) == 1
    keys = {request.headers["Idempotency-Key"] for request in cli.bridge.requests if request.method == "POST"}
    assert len(keys) == 1


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_says_each_objective_on_a_line_of_its_own(cli: Cli) -> None:
    cli.do(cli.world.declare)
    objective = {
        "name": "error_abs",
        "candidate": 0.0,
        "baseline": 0.001,
        "bound": 0.01,
        "odds": 1.0,
        "still_needed": 9,
    }
    evidence = {**EVIDENCE, "objectives": [objective]}
    cli.do(cli.world.move, cli.do(cli.world.roll), Baking(step=1, since=NOW), evidence=json.dumps(evidence))
    ended = cli("explain", "colorize")
    head, summary, errors, then, advice = ended.out.splitlines()
    assert (ended.code, head) == (0, "colorize-1: ◌ baking")
    assert summary == EVIDENCE["reason"]
    assert errors.strip().startswith("failed requests: v2 0 %, v1 0.1 % in the same seconds, at most 1 %; evidence")
    assert then == "then 50%; how long that takes cannot be said yet"
    assert advice.startswith("Warn [HS0108] (colorize) no Envoy is connected")
    found = json.loads(cli("explain", "colorize", "-o", "json").out)
    assert (found["phase"], found["objectives"][0]["still_needed"]) == ("baking", 9)


# -- plan --------------------------------------------------------------------------------------------------------------


def test_plan_goes_by_the_recent_traffic_and_by_what_is_given_instead(cli: Cli) -> None:
    cli.do(cli.world.declare)
    ended = cli("plan", "colorize", "--replications", "10")
    words = (
        "hueshift: traffic: colorize has had no requests of late; say what it will have: --rate, --errors, --p50, --p95"
    )
    assert (ended.code, ended.lines) == (2, [words])
    batch = builders.make_batch("one", tick=builders.TICK - 1, colorize_v1=builders.make_counts(200, errors=1))
    cli.do(cli.world.store.record, batch)
    found = json.loads(cli("plan", "colorize", "--replications", "10", "-o", "json").out)
    assert (found["traffic"]["rate"], found["traffic"]["error_ratio"]) == (200.0, 0.005)
    assert [row["version"] for row in found["forecasts"]][:2] == ["healthy", "2 % more errors"]
    given = ("--rate", "50", "--errors", "0.1%", "--p50", "80ms", "--p95", "200ms")
    found = json.loads(cli("plan", "colorize", "--replications", "10", *given, "-o", "json").out)
    assert [found["traffic"][key] for key in ("rate", "error_ratio", "p50_ms", "p95_ms")] == [50.0, 0.001, 80.0, 200.0]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--errors", "lots", "--errors: "),
        ("--errors", "120%", "--errors: "),
        ("--p50", "fast", "--p50: "),
        ("--p50", "10m", "--p50: 10m is out of range; give 1ms to 5m"),
    ],
)
def test_plan_refuses_what_is_no_share_or_span(cli: Cli, option: str, value: str, words: str) -> None:
    cli.do(cli.world.declare)
    ended = cli("plan", "colorize", "--rate", "1", option, value)
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert words in ended.err


# -- get ---------------------------------------------------------------------------------------------------------------


def test_the_page_shows_split_rollout_evidence_acks_and_events(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.store.propose_snapshot, builders.make_snapshot("s1"))
    cli.do(cli.world.connect, "edge-1")
    cli.do(cli.world.report_health, ClusterHealth("edge-1", "colorize_v2", 1, 1))
    evidence = {
        **EVIDENCE,
        "objectives": [
            {
                "name": "error_abs",
                "candidate": 0.001,
                "baseline": None,
                "bound": 0.01,
                "odds": 1.2,
                "still_needed": 387,
            },
            {"name": "latency_rel", "candidate": 0.2, "baseline": 0.1, "bound": 1.1, "odds": 2e6, "still_needed": None},
        ],
    }
    cli.do(
        cli.world.move,
        cli.do(cli.world.roll),
        Baking(step=1, since=NOW),
        words="25 % is live",
        evidence=json.dumps(evidence),
    )
    ended = cli("get", "colorize")
    page = in_words(ended.out)
    assert ended.code == 0
    for words in (
        "Name: colorize 127.0.0.1:8080",
        "Status: ◌ baking",
        "Message: error rate 0.1 % (1/1000), not yet shown",
        "Rollout: colorize-1 v1 → v2",
        "Step: 2/4",
        "SetWeight: 25%",
        "ActualWeight: - (no requests)",
        "AckedWeight: 0/1 (waiting for edge-1)",
        "├──# colorize-1 Rollout ◌ baking 0s v1 → v2, by ada: better blues",
        "Σ 1: 5% Step ✔ done held 30 s",
        "Σ 2: 25% Step ◌ now 0s held 30 s",
        "Σ 3: 50% Step • later",
        f"{ALPHA} error_abs Evidence ◌ 387 more 0.1 % ≤ 1 %, odds 1:1.2",
        f"{ALPHA} latency_rel Evidence ‖ open 20 %, v1 10 %, at most x1.1, odds 1:1000000+",
        "⧉ v1 Version • not reported 75% set, baseline, colorize_v1",
        "⧉ v2 Version ✔ 1/1 healthy 25% set, candidate, colorize_v2 │ └──□ 127.0.0.1:8083 Worker ✔ healthy",
        "⇄ Envoys Fleet ◌ 0/1 ACKed",
        "◇ edge-1 Envoy ◌ STALE 0s CDS, LDS, RDS",
        " 25 % is live",
    ):
        assert words in page, ended.out


def test_a_worker_with_another_model_stands_on_the_page(cli: Cli) -> None:
    async def declare() -> None:
        store = cli.world.store
        await store.apply(builders.pinned(builders.make_spec()), by="ada", why="", now=NOW)
        gone = builders.make_report("10.0.0.3:1", words="it cannot be reached", at=NOW - builders.seconds(30))
        other = builders.make_report("10.0.0.2:1", pin=builders.make_pin(digit="b"))
        await store.record_models([builders.make_report(), other, gone])

    cli.do(declare)
    page = in_words(cli("get", "colorize").out)
    for words in (
        "⊞ v2 Model ✖ 2/3 serve it sha256:aaaaaaaaaaaa…",
        "✖ deviates 10.0.0.2:1 serves v2 (sha256:bbbbbbbbbbbb), but v2 is v2 (sha256:aaaaaaaaaaaa)",
        "□ 10.0.0.3:1 Worker • not said 30s it cannot be reached",
        "Error [HS0113] (colorize) 10.0.0.2:1 serves v2",
    ):
        assert words in page


def test_envoys_words_of_a_refusal_are_on_the_page_whole_and_harmless(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli.do(cli.world.store.propose_snapshot, builders.make_snapshot("s1"))
    words = 'Proto constraint validation failed (RouteValidationError.Match: ["value is required"])\n[red]\x1b[2Jgone'
    nacked = TypeStatus(sent="s1-r", acked="s0-r", acked_at=NOW, nacked="s1-r", words=words)
    node = builders.make_node("edge-1")
    cli.do(cli.world.store.record_nodes, [type(node)(**{**_fields(node), "types": {"rds": nacked}})])
    state = Paused(0, NOW, PauseCause.NACK, f"edge-1 refused RDS: {words}", next_step=1)
    cli.do(cli.world.move, cli.do(cli.world.roll), state)
    ended = cli("get", "colorize")
    clean = 'RouteValidationError.Match: ["value is required"]) [red] [2Jgone'
    assert ended.out.count(clean) == 3  # of the rollout, of the Envoy, and of what is to be said of both
    assert "\x1b" not in ended.out
    assert "‖ paused (nack)" in ended.out
    assert "Error [HS0109] (edge-1) refused RDS: Proto" in ended.out
    assert "; run: hueshift proxy edge-1 diff" in ended.out
    proxies = cli("proxies")
    assert "✖ NACKED" in proxies.out
    assert "(edge-1) refused RDS s1-r: Proto" in proxies.out


def test_the_page_is_json_for_programs(cli: Cli) -> None:
    cli.do(cli.world.declare)
    page = json.loads(cli("get", "colorize", "-o", "json").out)
    assert (page["service"], page["rollout"], page["acks"]["words"]) == ("colorize", None, "nothing is served yet")


def test_an_unknown_service_is_refused_with_4(cli: Cli) -> None:
    cli.do(cli.world.declare)
    for command in (("get",), ("get", "-w"), ("status",), ("history",), ("pause",), ("abort",)):
        ended = cli(*command, "nothing")
        assert (ended.code, ended.lines) == (4, ["hueshift: service 'nothing' does not exist (known: colorize)"])


def test_watching_prints_one_line_per_change_until_the_end(cli: Cli) -> None:
    rollout = _rolling(cli)
    cli.later(_step, cli, rollout, Baking(step=1, since=NOW))
    cli.later(_nothing)
    cli.later(_step, cli, rollout, RolledBack(NOW, RollbackCause.SLO_BREACH, "error rate 20 % > SLO 1 %"))
    ended = cli("get", "colorize", "-w")
    lines = [line.partition("  ")[2] for line in ended.out.splitlines()]
    assert ended.code == 0
    assert [line.partition(" [")[0] for line in lines] == [
        "colorize-1: v1 → v2 ◌ preparing, step 0/4, weight 0%",
        "moved",
        "colorize-1: v1 → v2 ◌ baking, step 2/4, weight 25%",
        "moved",
        "colorize-1: v1 → v2 ✖ rolled back, step 0/4, weight 0%: error rate 20 % > SLO 1 %",
    ]


def test_watching_as_json_prints_one_object_per_change(cli: Cli) -> None:
    rollout = _rolling(cli)
    cli.later(_step, cli, rollout, RolledBack(NOW, RollbackCause.ABORTED, "ada"))
    ended = cli("get", "colorize", "-w", "-o", "json")
    assert [json.loads(line)["rollout"]["state"] for line in ended.out.splitlines()] == ["preparing", "rolled_back"]


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pause", "colorize", "--why", "lunch"), Pause("ada", "lunch")),
        (("promote", "colorize"), Promote("ada", "")),
        (("promote", "colorize", "--full", "--why", "sure"), Promote("ada", "sure", full=True)),
        (("abort", "colorize", "--why", "grey faces"), Abort("ada", "grey faces")),
    ],
)
def test_a_command_is_taken_down_even_if_the_controller_is_slow(
    cli: Cli, arguments: tuple[str, ...], expected: object
) -> None:
    rollout = _rolling(cli)
    ended = cli(*arguments)
    assert ended.code == 0
    assert "was taken down; the controller has not carried it out yet" in ended.out
    (pending,) = cli.do(cli.world.store.load_pending, rollout.id)
    assert pending.command == expected


def test_a_command_tells_what_the_controller_made_of_it(cli: Cli) -> None:
    rollout = _rolling(cli)
    state = Paused(0, NOW, PauseCause.OPERATOR, "ada: lunch", next_step=0)
    cli.later(_step, cli, rollout, state, words="ada asked to pause (lunch); paused at 5 %")
    assert cli("pause", "colorize").out == "colorize: ada asked to pause (lunch); paused at 5 %\n"


def test_a_command_that_the_controller_refuses_ends_with_4(cli: Cli) -> None:
    rollout = _rolling(cli)

    async def refuse() -> None:
        store = cli.world.store
        words = "cannot resume a rollout that is preparing"
        refused = Occurrence(kind="refused", what="resume", by="ada", words=words, before="", after="")
        handled = [one.number for one in await store.load_pending(rollout.id)]
        await store.save(await store.load(rollout.id), occurred=[refused], handled=handled, now=NOW)

    cli.later(refuse)
    ended = cli("resume", "colorize")
    assert (ended.code, ended.lines) == (4, ["hueshift: cannot resume a rollout that is preparing"])


def test_without_a_rollout_there_is_nothing_to_command(cli: Cli) -> None:
    cli.do(cli.world.declare)
    ended = cli("abort", "colorize")
    assert (ended.code, len(ended.lines)) == (4, 1)


# -- set-weight, history -----------------------------------------------------------------------------------------------


def test_weights_are_set_with_or_without_percent_signs(cli: Cli) -> None:
    cli.do(cli.world.declare)
    ended = cli("set-weight", "colorize", "v1=99.99%", "v2=0.01", "--why", "a drop")
    assert (ended.code, ended.out) == (0, "colorize: the split is now v1 99.99%  v2 0.01%\n")
    assert "a drop" in cli.do(cli.world.audit)[-1][2]


@pytest.mark.parametrize(
    ("weights", "code", "words"),
    [
        (("v1=90", "v2=20"), 2, "weights: the weights sum to 110 %; make them sum to 100 %"),
        (("v1=101",), 2, "weights: 101% is out of range; use 0% to 100%"),
        (("v1=-1", "v2=101"), 2, "weights: -1% is out of range"),
        (("v1",), 2, "weights: 'v1' is not VERSION=PERCENT; write them like v1=90% v2=10%"),
        (("v1=50", "v1=50"), 2, "weights: a version is named twice; name each version once"),
        (("v1=50", "v9=50"), 4, "version 'v9' does not exist (known: v1, v2)"),
        ((), 2, "Missing argument"),
    ],
)
def test_senseless_weights_are_refused(cli: Cli, weights: tuple[str, ...], code: int, words: str) -> None:
    cli.do(cli.world.declare)
    ended = cli("set-weight", "colorize", *weights)
    assert (ended.code, len(ended.lines)) == (code, 1)
    assert words in ended.err


def test_the_history_tells_when_who_what_and_why(cli: Cli) -> None:
    cli.do(cli.world.declare)
    cli("start", "colorize", "--to", "v2", "--why", "better blues")
    ended = cli("history", "colorize")
    assert ended.out.splitlines()[0].split() == ["TIME", "BY", "WHAT", "WORDS"]
    assert "ada start" in in_words(ended.out)
    assert "better blues" in ended.out
    events = json.loads(cli("history", "colorize", "--rollout", "colorize-1", "-o", "json").out)
    assert {event["rollout"] for event in events} == {"colorize-1"}
    assert len(json.loads(cli("history", "colorize", "--limit", "1", "-o", "json").out)) == 1
    assert cli("history", "colorize", "--limit", "0").code == 2


# -- helpers -----------------------------------------------------------------------------------------------------------


def _rolling(cli: Cli) -> Rollout:
    cli.do(cli.world.declare)
    rollout: Rollout = cli.do(cli.world.roll)
    return rollout


async def _step(cli: Cli, rollout: Rollout, state: Any, *, words: str = "moved") -> None:
    await cli.world.move(await cli.world.store.load(rollout.id), state, words=words)


async def _nothing() -> None:
    """Let time pass."""


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
