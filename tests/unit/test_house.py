"""The house keeps its own rules: locks, what may not stand in a committed file, and the README's layout table."""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import tomllib

import pathspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOCKS = [
    "requirements.lock",
    "deploy/control-plane.lock",
    "deploy/worker.lock",
    "deploy/build.lock",
    "deploy/torch.lock",
]
PIN = re.compile(r"^([a-z0-9-]+)==([^ ;\\]+)", re.MULTILINE)

# Written in two parts each, so that this file may be read by its own test.
REGISTRY_HOSTS = ["py" + "pi.org", "files.python" + "hosted.org", "registry.npm" + "js", "deb.deb" + "ian.org"]
MACHINE_PATHS = re.compile(r"(?<![\w.$}/-])/(?:work/\w|root/|home/\w|Users/\w|opt/py" + r"pi|tmp/bash_)")
PRIVATE_HOSTS = re.compile(r"\b[\w-]+\.(?:corp|intra|lan|internal" + r"\.net)\b", re.IGNORECASE)


@functools.cache
def tracked() -> list[str]:
    """Name the files of the project as git does; without git, as .gitignore would have it."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".gitignore").read_text().splitlines())
    names = []
    for folder, folders, files in os.walk(ROOT):
        place = pathlib.Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if name != ".git" and not ignored.match_file(f"{place / name}/")]
        names += [str(place / name) for name in files if not ignored.match_file(str(place / name))]
    return sorted(names)


def text_of(name: str) -> str:
    body = (ROOT / name).read_bytes()
    return "" if b"\0" in body[:8192] else body.decode("utf-8", errors="replace")


def pins(lock: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / lock).read_text()))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", "\n" + "\n".join(re.findall(r"^(?!#).*$", text, re.MULTILINE)))
    packages = [block for block in blocks if PIN.match(block)]
    assert packages
    assert [block.split()[0] for block in packages if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("lock", LOCKS[1:])
def test_images_get_the_versions_that_the_tests_ran_with(lock: str) -> None:
    tested = pins("requirements.lock")
    known = pins(lock) if lock != "deploy/torch.lock" else {n: v for n, v in pins(lock).items() if n in tested}
    differing = {name: version for name, version in known.items() if tested.get(name) != version}
    assert differing == {}, "run make lock"


def test_the_lock_covers_every_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    extras = project["project"]["optional-dependencies"]
    for name, extra in extras.items():
        declared += [] if name == "torch" else extra
    assert lines_outside(declared, pins("requirements.lock")) == [], "run make lock"
    assert lines_outside(extras["torch"], pins("deploy/torch.lock")) == [], "run make lock"


def lines_outside(declared: list[str], locked: dict[str, str]) -> list[str]:
    """The requirements that no version in the lock meets; our own extras aside."""
    wanted = {line: Requirement(line) for line in declared}
    return [
        line
        for line, need in wanted.items()
        if (name := canonicalize_name(need.name)) != "hueshift"
        and (name not in locked or not need.specifier.contains(locked[name]))
    ]


def test_no_committed_file_names_one_machine_or_a_private_host() -> None:
    found = []
    for name in tracked():
        for number, line in enumerate(text_of(name).splitlines(), start=1):
            hosts = [host for host in REGISTRY_HOSTS if host in line]
            if name == "deploy/setup_venv.py" and "DEFAULT_INDEX = " in line:
                hosts = []  # the public default, for machines that are told no other
            if hosts or MACHINE_PATHS.search(line) or PRIVATE_HOSTS.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []


def layout_section() -> str:
    sections = re.split(r"(?m)^#+ ", (ROOT / "README.md").read_text())
    matching = [section for section in sections if "layout" in section.partition("\n")[0].lower()]
    assert matching, "README.md has no section whose heading says Layout"
    return matching[0]


def test_the_readme_layout_table_names_everything() -> None:
    section = layout_section()
    names = {name.partition("/")[0] for name in tracked()}
    names -= {".gitignore", ".dockerignore", "LICENSE"}
    for name in tracked():
        if (inside := re.fullmatch(r"controlplane/([a-z_]+)(?:\.py|/.*)", name)) and not inside[1].startswith("__"):
            names.add(inside[1])
    missing = [name for name in sorted(names) if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", section)]
    assert missing == [], "README.md, layout table"


def test_the_readme_layout_table_names_nothing_else() -> None:
    mentioned = re.findall(
        r"`((?:controlplane|inference_worker|tests|deploy|migrations|protos)/[\w./-]*)`", layout_section()
    )
    assert [name for name in mentioned if not (ROOT / name).exists()] == [], "README.md, layout table"


# -- documents ---------------------------------------------------------------------------------------------------------


def anchors_of(text: str) -> set[str]:
    """Return what a page's headings are called in links, as GitHub makes them."""
    plain = re.sub(r"(?ms)^```.*?^```", "", text)
    headings = re.findall(r"(?m)^#+ (.+)$", plain)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    lost = []
    for name in ("README.md", *(each for each in tracked() if re.fullmatch(r"docs/[\w-]+\.md", each))):
        page = ROOT / name
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text("utf-8")):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and anchor not in anchors_of(there.read_text("utf-8"))):
                lost.append(f"{name}: {target}")
    assert lost == []
