"""Documents in files: lint, diff, apply and what is taken out again, from a real git repository."""

import dataclasses
import json
import pathlib
import random
import subprocess

import pytest
import yaml

from controlplane.rollout.model import Promoted, RollbackCause, RolledBack
from tests import builders
from tests.unit.cli.conftest import Cli

ENDPOINT_FIX = "write host:port, for example worker:8083 or [::1]:8083"
HEAD = "apiVersion: hueshift.dev/v1\n"
SERVICE = HEAD + (
    "kind: Service\nmetadata: {name: shop, labels: {team: photos}}\nspec:\n  listener: {port: 8090}\n"
    "  routes: [{name: all, split: true}]\n  slos: [strict]\n  plan: slow\n"
)
V1 = HEAD + "kind: Version\nmetadata: {name: v1}\nspec: {service: shop, endpoints: ['127.0.0.1:8083']}\n"
V2 = HEAD + "kind: Version\nmetadata: {name: v2}\nspec: {service: shop, endpoints: ['127.0.0.1:8084']}\n"
SLOS = HEAD + (
    "kind: SLO\nmetadata: {name: strict}\nspec:\n  objectives:\n  - {name: errors, kind: error_rate, max: 1%}\n"
)
PLAN = HEAD + "kind: Plan\nmetadata: {name: slow}\nspec: {steps: [{weight: 1%, hold: 5m}, {weight: 100%}]}\n"
ROLLOUT = HEAD + "kind: Rollout\nmetadata: {name: blues}\nspec: {service: shop, to: v2, why: better blues}\n"
ALL = {"service.yaml": SERVICE, "v1.yaml": V1, "v2.yaml": V2, "slos.yaml": SLOS, "plan.yaml": PLAN}


class Repository:
    """A git repository with documents."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.documents = folder / "hueshift"
        self.documents.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, **files: str | None) -> str:
        """Write these files, delete those that are None, and return the commit."""
        for name, text in files.items():
            path = self.documents / f"{name}.yaml"
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> Repository:
    return Repository(tmp_path / "repository")


def write(folder: pathlib.Path, **files: str) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def everything(folder: pathlib.Path, **more: str) -> pathlib.Path:
    return write(folder, **{name.removesuffix(".yaml"): text for name, text in ALL.items()}, **more)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_everything_wrong_in_many_files_is_told_with_file_document_line_and_field(
    cli: Cli, tmp_path: pathlib.Path
) -> None:
    folder = write(
        tmp_path / "all",
        a=PLAN.replace("weight: 1%", "weight: 1000%") + "---\n" + V1.replace("'127.0.0.1:8083'", "nowhere"),
        b=HEAD + "kind: Servce\nmetadata: {name: x}\nspec: {}\n",
        c="kind: Plan\n---\n- 1\n",
        d="a: [",
    )
    ended = cli("lint", "-f", str(folder))
    assert (ended.code, ended.out) == (2, "")
    assert [line.replace(f"{folder}/", "") for line in ended.lines] == [
        "hueshift: a.yaml:4: document 1 (Plan): spec.steps[1].weight: 1000% is out of range; use 0% to 100%",
        f"hueshift: a.yaml:9: document 2 (Version): spec.endpoints[1]: 'nowhere' is not an endpoint; {ENDPOINT_FIX}",
        "hueshift: b.yaml:2: kind: 'Servce' is not known; did you mean Service?",
        "hueshift: c.yaml:1: document 1 (Plan): apiVersion: is missing; write apiVersion: hueshift.dev/v1",
        "hueshift: c.yaml:3: document 2: is not a mapping; start it with apiVersion: hueshift.dev/v1",
        "hueshift: d.yaml:1:5: expected the node content, but found '<stream end>'; correct the YAML there",
    ]
    assert cli.bridge.requests == []


def test_what_does_not_fit_together_is_told_where_it_is_written(cli: Cli, tmp_path: pathlib.Path) -> None:
    folder = everything(tmp_path / "all")
    (folder / "service.yaml").write_text(SERVICE.replace("[strict]", "[lax]").replace("plan: slow", "plan: fast"))
    (folder / "v2.yaml").write_text(V1)
    ended = cli("lint", "-f", str(folder))
    assert [line.replace(f"{folder}/", "") for line in ended.lines] == [
        "hueshift: v2.yaml:3: metadata.name: Version 'shop/v1' is declared twice; declare each once",
        "hueshift: service.yaml:7: spec.slos: there is no SLO 'lax'; use one of strict",
        "hueshift: service.yaml:8: spec.plan: there is no Plan 'fast'; use one of slow",
    ]


def test_lint_checks_parts_by_themselves_where_their_service_is_elsewhere(cli: Cli, tmp_path: pathlib.Path) -> None:
    ended = cli("lint", "-f", str(write(tmp_path / "part", v1=V1)))
    assert (ended.code, "1 of the documents" in ended.err) == (0, True)
    everything(tmp_path / "all")
    ended = cli("lint", "-f", str(tmp_path / "all"))
    assert "service shop is valid: 2 versions, 1 routes, 1 objectives, 2 steps" in ended.out


# -- apply -------------------------------------------------------------------------------------------------------------


def test_documents_apply_in_any_order_once(cli: Cli, tmp_path: pathlib.Path) -> None:
    chance = random.Random(7)  # noqa: S311 - an order, no secret
    texts = [*ALL.values(), ROLLOUT]
    chance.shuffle(texts)
    file = tmp_path / "all.yaml"
    file.write_text("---\n".join(texts))
    dry = cli("apply", "-f", str(file), "--dry-run")
    assert "Service shop created (dry run)" in dry.out
    assert cli.do(cli.world.store.list_services) == ()
    ended = cli("apply", "-f", str(file))
    assert (ended.code, sorted(ended.out.splitlines())) == (
        0,
        [
            "Plan slow created",
            "Rollout shop/blues started",
            "SLO strict created",
            "Service shop created",
            "Version shop/v1 created",
            "Version shop/v2 created",
        ],
    )
    rollout = cli.do(cli.world.store.load_latest, "shop")
    assert (rollout.id, rollout.candidate, rollout.why) == ("shop-1", "v2", "better blues")
    assert [step.weight_bp for step in rollout.plan.steps] == [100, 10_000]
    chance.shuffle(texts)
    file.write_text("---\n".join(texts))
    again = cli("apply", "-f", str(file))
    assert {line.rpartition(" ")[2] for line in again.out.splitlines()} == {"unchanged"}
    assert len(cli.do(cli.world.store.list_rollouts, "shop")) == 1
    assert cli.do(cli.world.store.load_service, "shop").newest.number == 1


def test_a_running_rollout_keeps_its_plan_and_its_split_and_that_is_said(cli: Cli, tmp_path: pathlib.Path) -> None:
    folder = everything(tmp_path / "all", rollout=ROLLOUT)
    cli("apply", "-f", str(folder))
    before = cli.do(cli.world.store.load_latest, "shop")
    (folder / "plan.yaml").write_text(PLAN.replace("weight: 1%", "weight: 50%"))
    (folder / "service.yaml").write_text(SERVICE + "  split: {v2: 100%}\n")
    shown = cli("diff", "-f", str(folder))
    assert shown.code == 1
    assert "-  - weight: 1%" in shown.out
    assert "+  - weight: 50%" in shown.out
    assert "# Service shop: rollout shop-1 goes on by the plan and the objectives that it started with" in shown.out
    assert "# Service shop: the live split stays as it is, v1 100 %: rollout shop-1 moves it" in shown.out
    ended = cli("apply", "-f", str(folder))
    assert (ended.code, "Service shop configured" in ended.out, "Plan slow configured" in ended.out) == (0, True, True)
    after = cli.do(cli.world.store.load_latest, "shop")
    assert (after.plan, after.id) == (before.plan, "shop-1")
    record = cli.do(cli.world.store.load_service, "shop")
    assert record.split == builders.make_split(v1=10_000)
    assert record.newest.spec.plan.steps[0].weight_bp == 5_000
    assert cli("diff", "-f", str(folder)).code == 0


def test_a_version_alone_joins_the_service_that_is_there(cli: Cli, tmp_path: pathlib.Path) -> None:
    everything(tmp_path / "all")
    cli("apply", "-f", str(tmp_path / "all"))
    v3 = write(tmp_path / "v3", v3=V2.replace("v2", "v3").replace("8084", "8085"))
    assert "Version shop/v3 created" in cli("apply", "-f", str(v3)).out
    spec = cli.do(cli.world.store.load_service, "shop").newest.spec
    assert [version.name for version in spec.versions] == ["v1", "v2", "v3"]
    assert {line.rpartition(" ")[2] for line in cli("apply", "-f", str(tmp_path / "all")).out.splitlines()} == {
        "unchanged"
    }, "what others brought stays"


def test_a_plan_alone_reaches_the_services_that_name_it_unless_somebody_changed_theirs(
    cli: Cli, tmp_path: pathlib.Path
) -> None:
    cli("apply", "-f", str(everything(tmp_path / "all")))
    plan = write(tmp_path / "plan", plan=PLAN.replace("1%", "2%"))
    assert "Service shop configured" in cli("apply", "-f", str(plan)).out
    spec = cli.do(cli.world.store.load_service, "shop").newest.spec
    assert spec.plan.steps[0].weight_bp == 200
    cli.do(
        cli.world.store.apply,
        dataclasses.replace(spec, plan=builders.make_plan()),
        by="eve",
        why="",
        now=builders.NOW,
    )
    write(tmp_path / "plan", plan=PLAN.replace("1%", "3%"))
    assert cli("apply", "-f", str(plan)).out.splitlines() == ["Plan slow configured"]
    assert cli.do(cli.world.store.load_service, "shop").newest.spec.plan == builders.make_plan()


def test_a_rollout_whose_document_changes_is_another_one(cli: Cli, tmp_path: pathlib.Path) -> None:
    folder = everything(tmp_path / "all", rollout=ROLLOUT)
    cli("apply", "-f", str(folder))
    (folder / "rollout.yaml").write_text(ROLLOUT.replace("better blues", "greens"))
    refused = cli("apply", "-f", str(folder))
    assert (refused.code, "rollout shop-1 of 'shop' is active" in refused.err) == (2, True)
    assert "rollout.yaml:" in refused.err
    rollout = cli.do(cli.world.store.load_latest, "shop")
    cli.do(cli.world.move, rollout, RolledBack(builders.NOW, RollbackCause.ABORTED, "aborted"))
    assert "Rollout shop/blues started" in cli("apply", "-f", str(folder)).out
    assert cli.do(cli.world.store.load_latest, "shop").id == "shop-2"


def test_what_get_prints_applies_as_unchanged(cli: Cli, tmp_path: pathlib.Path) -> None:
    cli("apply", "-f", str(everything(tmp_path / "all")))
    file = tmp_path / "got.yaml"
    file.write_text(cli("get", "shop", "-o", "yaml").out)
    assert yaml.safe_load(file.read_text())["metadata"] == {"name": "shop", "labels": {"team": "photos"}}
    assert cli("lint", "-f", str(file)).code == 0
    assert cli("diff", "-f", str(file)).code == 0
    assert cli("apply", "-f", str(file)).out.splitlines() == ["Service shop unchanged"]


# -- prune -------------------------------------------------------------------------------------------------------------


def test_a_git_repository_is_the_truth(cli: Cli, repository: Repository) -> None:
    def apply(*more: str) -> list[str]:
        ended = cli("apply", "--prune", "--owner", "photos", "-f", str(repository.documents), *more)
        assert ended.code == 0, ended.err
        return [line for line in ended.out.splitlines() if not line.endswith(" unchanged")]

    first = repository.commit(**{name.removesuffix(".yaml"): text for name, text in ALL.items()})
    assert len(apply()) == 5
    v3 = V2.replace("v2", "v3").replace("8084", "8085")
    desk = SERVICE.replace("shop", "desk").replace("8090", "8091").replace("slow", "{}") + (
        "  versions: [{name: v1, endpoints: ['127.0.0.1:8086']}]\n"
    )
    second = repository.commit(v3=v3, desk=desk)
    assert apply() == ["Service desk created", "Service shop configured", "Version shop/v3 created"]
    third = repository.commit(v2=None)
    assert "Version shop/v2 deleted" in "\n".join(apply("--yes"))

    def names() -> list[str]:
        return [version.name for version in cli.do(cli.world.store.load_service, "shop").newest.spec.versions]

    assert names() == ["v1", "v3"]
    repository.git("checkout", "-q", second)
    apply()
    assert names() == ["v1", "v2", "v3"]
    repository.git("checkout", "-q", first)
    asked = cli("apply", "--prune", "--owner", "photos", "-f", str(repository.documents))
    assert (asked.code, "add --yes" in asked.err) == (2, True)
    assert "Service desk will be deleted" in asked.err
    assert "its traffic ends: v1 100 %; its history is kept" in asked.err
    assert "Service desk deleted" in "\n".join(apply("--yes"))
    assert [record.name for record in cli.do(cli.world.store.list_services)] == ["shop"]
    history = cli.do(cli.world.store.history, "desk")
    assert [entry.what for entry in history] == ["apply", "delete"]
    repository.git("checkout", "-q", third)
    assert "Service desk created" in "\n".join(apply("--yes"))
    assert cli.do(cli.world.store.load_service, "desk").newest.number == 2, "it goes on where it ended"
    assert apply() == []


def test_prune_refuses_what_would_break_traffic(cli: Cli, repository: Repository) -> None:
    repository.commit(**{name.removesuffix(".yaml"): text for name, text in ALL.items()}, rollout=ROLLOUT)
    command = ("apply", "--prune", "--owner", "photos", "--yes", "-f", str(repository.documents))
    assert cli(*command).code == 0
    everyone = repository.git("rev-parse", "HEAD")
    repository.commit(v1=None)
    ended = cli(*command)
    assert (ended.code, ended.lines) == (
        2,
        ["hueshift: Version shop/v1: carries 100 % of the traffic; keep it until a rollout has moved its traffic away"],
    )
    repository.git("checkout", "-q", everyone)
    repository.commit(**dict.fromkeys(("service", "v1", "v2", "rollout", "slos")))
    ended = cli(*command)
    assert "Service shop: rollout shop-1 is active; abort it or wait until it has ended, then delete" in ended.err
    repository.git("checkout", "-q", everyone)
    repository.commit(plan=None)
    assert "there is no Plan 'slow'; declare it with kind: Plan" in cli(*command).err
    (repository.documents / "note.txt").write_text("no document")
    repository.commit(**dict.fromkeys(("service", "v1", "v2", "rollout", "slos")))
    assert "holds no YAML or JSON file" in cli(*command).err, "an empty folder deletes nothing"
    assert cli.do(cli.world.store.load_service, "shop").newest.number == 1


def test_owners_do_not_take_each_others_documents(cli: Cli, tmp_path: pathlib.Path) -> None:
    folder = everything(tmp_path / "all")
    cli("apply", "--owner", "photos", "-f", str(folder))
    ended = cli("apply", "--owner", "other", "-f", str(folder))
    assert (ended.code, "Service 'shop' is brought by 'photos'" in ended.err) == (2, True)
    part = write(tmp_path / "part", lax=SLOS.replace("strict", "lax"))
    assert cli("apply", "--owner", "other", "--prune", "-f", str(part)).out.splitlines() == ["SLO lax created"]
    assert cli("apply", "--owner", "other", "--adopt", "-f", str(folder)).code == 0
    kept = cli(
        "apply", "--owner", "photos", "--prune", "--yes", "-f", str(write(tmp_path / "p", p=PLAN.replace("slow", "x")))
    )
    assert kept.out.splitlines() == ["Plan x created"]


def test_a_lost_race_changes_nothing(cli: Cli, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = everything(tmp_path / "all")
    cli("apply", "--owner", "photos", "-f", str(folder))
    (folder / "v2.yaml").unlink()
    ask = cli.bridge.handle_request
    sent = []

    def meddling(request: object) -> object:
        sent.append(request)
        if len(sent) == 2:  # between what was looked at and what is done
            cli.do(
                cli.world.store.set_split, "shop", builders.make_split(v2=10_000), by="eve", why="", now=builders.NOW
            )
        return ask(request)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(cli.bridge, "handle_request", meddling)
    ended = cli("apply", "--owner", "photos", "--prune", "--yes", "-f", str(folder))
    assert (ended.code, "carries 100 % of the traffic" in ended.err) == (2, True)
    sent.clear()
    monkeypatch.setattr(cli.bridge, "handle_request", ask)
    everything(folder)
    (folder / "plan.yaml").write_text(PLAN.replace("1%", "7%"))

    def newer(request: object) -> object:
        sent.append(request)
        if len(sent) == 2:
            spec = cli.do(cli.world.store.load_service, "shop").newest.spec
            other = dataclasses.replace(spec, domains=("shop.example",))
            cli.do(cli.world.store.apply, other, by="eve", why="", now=builders.NOW)
        return ask(request)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(cli.bridge, "handle_request", newer)
    ended = cli("apply", "--owner", "photos", "-f", str(folder))
    assert (ended.code, "read it again and decide anew" in ended.err) == (4, True)
    assert cli.do(cli.world.store.load_service, "shop").newest.spec.domains == ("shop.example",)


# -- delete, schema ----------------------------------------------------------------------------------------------------


def test_delete_asks_and_keeps_the_history(cli: Cli) -> None:
    cli.do(cli.world.declare)
    assert "add --yes" in cli("delete", "colorize").err
    rollout = cli.do(cli.world.roll)
    refused = cli("delete", "colorize", "--yes")
    assert (refused.code, "rollout colorize-1 of 'colorize' is active" in refused.err) == (4, True)
    cli.do(cli.world.move, rollout, Promoted(builders.NOW, "done"))
    assert cli("delete", "colorize", "--yes", "--why", "no more").out == "colorize is deleted; its history is kept\n"
    assert cli("get", "colorize").code == 4
    assert "deleted; its history is kept: no more" in cli("history", "colorize").out
    assert cli("history", "nothing").code == 4
    assert cli.do(cli.world.audit)[-1] == ("ada", "delete", "deleted; its history is kept: no more")
    assert cli("delete", "colorize", "--yes").code == 4


@pytest.mark.parametrize("kind", ["service", "Version", "slo", "plan", "rollout", "any"])
def test_schema_prints_one(cli: Cli, kind: str) -> None:
    ended = cli("schema", kind)
    assert json.loads(ended.out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "use one of" in cli("schema", "pod").err or "known: service" in cli("schema", "pod").err
