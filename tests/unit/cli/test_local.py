"""Commands on this machine: the database, keys, Envoy's bootstrap, and the programs that are started by name."""

import importlib
import inspect
import json
import pathlib
import re
import sys
import types
from typing import Any

import pytest

from controlplane.settings import Settings
from tests.unit.cli.conftest import Cli


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return the folder in which the embedded database is."""
    path = tmp_path / "data"
    monkeypatch.setenv("HUESHIFT_DATA_DIR", str(path))
    monkeypatch.delenv("HUESHIFT_DATABASE_URL", raising=False)
    return path


def test_the_database_is_made_and_brought_up_to_date(cli: Cli, folder: pathlib.Path) -> None:
    absent = cli("db", "current")
    assert (absent.code, len(absent.lines)) == (3, 1)
    assert "hueshift db upgrade" in absent.err
    assert cli("db", "upgrade").code == 0
    assert (folder / "hueshift.sqlite3").exists()
    current = cli("db", "current")
    assert current.code == 0
    assert "as this release needs it" in current.out
    state = json.loads(cli("db", "current", "-o", "json").out)
    assert (state["is_behind"], state["revision"]) == (False, state["head"])
    assert cli("db", "upgrade").code == 0


@pytest.mark.parametrize("command", [("db", "upgrade"), ("db", "current"), ("keys", "list"), ("keys", "create", "x")])
@pytest.mark.parametrize(
    ("url", "code"), [("oracle://x", 2), ("sqlite:////nowhere/at/all.sqlite3", 3), ("not a url", 2)]
)
def test_a_database_that_cannot_be_used_is_one_line(
    cli: Cli, folder: pathlib.Path, command: tuple[str, ...], url: str, code: int
) -> None:
    ended = cli(*command, "--database-url", url)
    assert (ended.code, len(ended.lines)) == (code, 1)
    assert not folder.exists()


def test_keys_are_made_listed_and_revoked_without_a_server(cli: Cli, folder: pathlib.Path) -> None:
    assert "db upgrade" in cli("keys", "create", "ci").err
    cli("db", "upgrade")
    assert "there is no key yet" in cli("keys", "list").out
    made = cli("keys", "create", "ci")
    key = made.out.strip()
    assert (made.code, bool(re.fullmatch(r"hs_[0-9a-f]{64}", key))) == (0, True)
    assert "cannot be shown again" in made.err
    assert json.loads(cli("keys", "create", "ada", "-o", "json").out)["key"].startswith("hs_")
    listed = cli("keys", "list")
    assert listed.out.splitlines()[0].split() == ["NAME", "PREFIX", "GRANTS", "CREATED", "REVOKED"]
    assert key not in listed.out
    assert f"{key[:9]}..." in listed.out
    assert cli("keys", "revoke", "ci", "--yes").code == 0
    rows = json.loads(cli("keys", "list", "-o", "json").out)["keys"]
    assert [(row["name"], bool(row["revoked"])) for row in rows] == [("ada", False), ("ci", True)]
    assert key not in (folder / "hueshift.sqlite3").read_bytes().decode("latin-1")


def test_keys_have_grants_which_are_given_and_taken(cli: Cli, folder: pathlib.Path) -> None:
    assert folder.name == "data"
    cli("db", "upgrade")
    assert "it acts as 'all' and may: admin:*" in cli("keys", "create", "all").err
    made = cli("keys", "create", "ci", "--role", "operator", "--service", "a", "--service", "b", "--grant", "viewer:*")
    assert "may: viewer:*, operator:a, operator:b" in made.err
    assert "jobs of its own, and nothing else" in cli("keys", "create", "shop", "--jobs-only").err
    assert cli("keys", "grant", "shop", "--role", "viewer").out == "'shop' may: viewer:*\n"
    assert cli("keys", "grant", "ci", "--grant", "approver:a").out == "'ci' may: viewer:*, approver:a, operator:b\n"
    assert cli("keys", "ungrant", "ci", "--grant", "approver:a", "--role", "viewer").out == "'ci' may: operator:b\n"
    assert cli("keys", "ungrant", "all", "--role", "admin").code == 0, "on this machine nobody is locked out"
    rows = json.loads(cli("keys", "list", "-o", "json").out)["keys"]
    assert [(row["name"], row["grants"]) for row in rows] == [
        ("shop", ["viewer:*"]),
        ("ci", ["operator:b"]),
        ("all", []),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("create", "x", "--role", "king"), 2, "--role: 'king' is no role; use viewer, operator, approver, admin"),
        (("create", "x", "--service", "a"), 2, "--service: is given without a role"),
        (("create", "x", "--role", "viewer", "--jobs-only"), 2, "--jobs-only: is given beside a role"),
        (("create", "x", "--grant", "viewer:A b"), 2, "--grant: 'A b' cannot name a service"),
        (("grant", "ci"), 2, "--role: is not given"),
        (("grant", "bob", "--role", "viewer"), 4, "API key 'bob' does not exist (known: ci)"),
        (("ungrant", "ci", "--role", "viewer"), 4, "grant of 'ci' 'viewer:*' does not exist (known: operator:*)"),
    ],
)
def test_grants_that_make_no_sense_are_refused(
    cli: Cli, folder: pathlib.Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert folder.name == "data"
    cli("db", "upgrade")
    cli("keys", "create", "ci", "--role", "operator")
    ended = cli("keys", *arguments)
    assert (ended.code, len(ended.lines)) == (code, 1)
    assert words in ended.err


def test_keys_refuse_what_makes_no_sense(cli: Cli, folder: pathlib.Path) -> None:
    assert folder.name == "data"
    cli("db", "upgrade")
    cli("keys", "create", "ci")
    for arguments, code in ((("create", "ci"), 4), (("create", "a b"), 2), (("revoke", "bob", "--yes"), 4)):
        ended = cli("keys", *arguments)
        assert (ended.code, len(ended.lines)) == (code, 1)


# -- Envoy -------------------------------------------------------------------------------------------------------------


def test_a_grpc_client_has_a_bootstrap_of_its_own(cli: Cli) -> None:
    arguments = ("bootstrap", "--for", "grpc", "--node-id", "app-7", "--cluster", "apps", "--xds-port", "18010")
    ended = cli(*arguments, "--xds-host", "::1")
    assert ended.code == 0
    assert json.loads(ended.out) == {
        "xds_servers": [
            {"server_uri": "[::1]:18010", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
        ],
        "node": {"id": "app-7", "cluster": "apps"},
    }
    assert cli("bootstrap", "--for", "grpc", "--node-id", " ").code == 2
    assert cli("bootstrap", "--for", "nginx", "--node-id", "a").code == 2


def test_the_bootstrap_is_printed_as_json(cli: Cli) -> None:
    ended = cli(
        *("bootstrap", "--node-id", "edge-7", "--cluster", "blue", "--xds-host", "hueshift.internal"),
        *("--xds-port", "18010", "--telemetry-port", "18011", "--admin-port", "0", "--variant", "sotw"),
    )
    assert ended.code == 0
    config = json.loads(ended.out)
    assert config["node"] == {"id": "edge-7", "cluster": "blue"}
    assert config["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"
    for text in ("hueshift.internal", "18010", "18011"):
        assert text in ended.out
    without_ads = json.loads(cli("bootstrap", "--node-id", "edge-7", "--variant", "delta-per-type").out)
    assert "ads_config" not in without_ads["dynamic_resources"]
    polls = cli("bootstrap", "--node-id", "edge-7", "--variant", "rest").out
    assert (polls.count('"port_value": 8000'), polls.count('"port_value": 18000')) == (1, 0)
    assert cli("bootstrap").code == 2
    assert cli("bootstrap", "--node-id", " ").code == 2
    assert cli("bootstrap", "--node-id", "a", "--xds-port", "70000").code == 2


TLS = ("--tls-cert", "own.crt", "--tls-key", "own.key", "--tls-ca", "ca.crt")


def test_mutual_tls_is_part_of_the_bootstrap_and_its_files_are_written(cli: Cli, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "secrets"
    printed = cli("bootstrap", "--node-id", "edge-7", "--xds-host", "plane", *TLS, "--tls-secrets", str(folder))
    assert printed.code == 0
    for cluster in json.loads(printed.out)["static_resources"]["clusters"]:
        assert cluster["transport_socket"]["typed_config"]["sni"] == "plane"
        assert str(folder) in json.dumps(cluster["transport_socket"])
    written = "".join(path.read_text() for path in folder.iterdir())
    for name in ("own.crt", "own.key", "ca.crt"):
        assert str(pathlib.Path(name).absolute()) in written


def test_half_of_mutual_tls_is_one_line(cli: Cli, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for options in (TLS[:2], TLS[2:], ("--tls-secrets", "x")):
        ended = cli("bootstrap", "--node-id", "edge-7", *options)
        assert (ended.code, len(ended.lines)) == (2, 1)
        assert "although mutual TLS needs it" in ended.err
    ended = cli("bootstrap", "--node-id", "edge-7", *TLS, "--tls-secrets", str(tmp_path / "file"))
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert "--tls-secrets" in ended.err


def test_envoy_is_run_with_that_bootstrap(cli: Cli, tmp_path: pathlib.Path) -> None:
    binary = tmp_path / "envoy"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    cli.environment["HUESHIFT_ENVOY"] = str(binary)
    assert cli("envoy", "--node-id", "edge-7").code == 0
    (arguments,) = cli.executed
    assert arguments[0] == str(binary)
    config = json.loads(arguments[arguments.index("--config-yaml") + 1])
    assert config["node"]["id"] == "edge-7"
    assert "--disable-hot-restart" in arguments
    cli.environment["HUESHIFT_ENVOY"] = str(tmp_path / "none")
    ended = cli("envoy")
    assert (ended.code, len(ended.lines)) == (2, 1)


# -- serve, and programs by name ---------------------------------------------------------------------------------------


def test_serve_gets_the_settings_of_the_command_line(
    cli: Cli, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Settings] = []

    async def serve(settings: Settings) -> None:
        served.append(settings)

    monkeypatch.setitem(sys.modules, "controlplane.running", types.SimpleNamespace(serve=serve))
    monkeypatch.setattr("controlplane.running", sys.modules["controlplane.running"], raising=False)
    assert cli("serve", "--role", "xds", "--api-port", "0", "--xds-port", "1801").code == 0
    (settings,) = served
    assert (settings.role.value, settings.api_port, settings.xds_port, settings.data_dir) == ("xds", 0, 1801, folder)
    for arguments in (("--role", "king"), ("--api-port", "70000"), ("--api-port", "many")):
        ended = cli("serve", *arguments)
        assert (ended.code, len(ended.lines)) == (2, 1), ended
    assert len(served) == 1


@pytest.mark.parametrize(
    ("arguments", "module", "expected"),
    [
        (("demo", "--json", "out.json"), "demo", {"json_file": pathlib.Path("out.json")}),
        (("demo",), "demo", {}),
        (("bench", "rollback", "--runs", "3"), "bench_rollback", {"runs": 3}),
        (("bench", "flips"), "bench_flips", {}),
        (("bench", "flips", "--flips", "9", "--rate", "50"), "bench_flips", {"flips": 9, "rate": 50.0}),
        (("soak", "--kills", "2"), "soak", {"kills": 2}),
        (("soak", "--sequences", "9", "--seed", "4"), "fuzz", {"sequences": 9, "seed": 4}),
        (
            ("soak", "--jobs", "90", "--kills", "2", "--workers-away", "30", "--queue", "sql", "--seed", "4"),
            "soak_jobs",
            {"jobs": 90, "kills": 2, "workers_away": 30.0, "queue": "sql", "seed": 4},
        ),
        (("bench", "jobs"), "bench_jobs", {"jobs": 5_000}),
        (
            ("bench", "jobs", "--jobs", "90", "--queue-url", "amqp://x/", "--database-url", "postgresql://x/y"),
            "bench_jobs",
            {"jobs": 90, "queue_url": "amqp://x/", "database_url": "postgresql://x/y"},
        ),
        (
            ("simulate", "--scenarios", "s.json", "--seed", "7"),
            "simulate",
            {"scenarios": pathlib.Path("s.json"), "seed": 7},
        ),
    ],
)
@pytest.mark.parametrize("code", [0, 1])
def test_programs_are_started_by_name_and_their_code_is_ours(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    module: str,
    expected: dict[str, Any],
    code: int,
) -> None:
    called: list[dict[str, Any]] = []

    def main(**given: Any) -> int:
        called.append(given)
        return code

    monkeypatch.setitem(sys.modules, f"controlplane.lab.{module}", types.SimpleNamespace(main=main))
    assert cli(*arguments).code == code
    assert called == [expected]


def test_a_program_that_is_not_here_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for absent in (None, types.SimpleNamespace()):
        monkeypatch.setitem(sys.modules, "controlplane.lab.soak", absent)
        ended = cli("soak")
        assert (ended.code, len(ended.lines)) == (2, 1)


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("demo", {"json_file", "svg_file"}),
        ("bench_rollback", {"runs", "scenario", "history_s", "seed", "json_file"}),
        ("bench_flips", {"flips", "rate", "requests", "json_file"}),
        ("soak", {"kills", "rate", "seed", "json_file"}),
        ("fuzz", {"sequences", "seed"}),
        ("soak_jobs", {"jobs", "kills", "workers_away", "queue", "seed", "json_file"}),
        ("bench_jobs", {"jobs", "queue_url", "database_url", "json_file"}),
    ],
)
def test_every_option_of_a_program_is_one_that_it_takes(program: str, options: set[str]) -> None:
    main = importlib.import_module(f"controlplane.lab.{program}").main
    assert options <= set(inspect.signature(main).parameters)
