"""The pages' files: served without a key, with everything forbidden that they do not need, and in the wheel."""

import gzip
import json
import pathlib
import re
import zipfile

import httpx
import pytest
from fastapi import FastAPI
from hatchling.builders.wheel import WheelBuilder

from controlplane.pictures.facts import MAX_PHOTO_BYTES
from controlplane.ui.app import APP, PAGES, STATIC, add_pages

ROOT = pathlib.Path(__file__).resolve().parents[3]
WEB = ROOT / "controlplane" / "ui" / "web"
FILES = sorted(STATIC.iterdir())
WRITTEN = sorted(file for folder in ("src", "public") for file in (WEB / folder).rglob("*") if file.is_file())
MAX_BUNDLE_BYTES = 100 * 1000
"""Of everything, as it goes over the wire, compressed."""


@pytest.fixture
def app() -> FastAPI:
    made = FastAPI()
    add_pages(made)
    return made


OF_LIBRARIES = r"https?://(?:www\.w3\.org/|svelte\.dev/e/)"
"""Names of namespaces, and where Svelte explains its errors: nothing is loaded from there."""


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hueshift.test")


async def test_a_page_needs_no_key_and_may_load_nothing_but_our_own_files(app: FastAPI) -> None:
    async with client(app) as http:
        answer = await http.get("/jobs")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'", "'self'", "'self'")
    assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == ("'none'",) * 3
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_every_file_is_served_as_what_it_is_and_asked_for_again_only_when_it_changed(app: FastAPI) -> None:
    async with client(app) as http:
        for file in FILES:
            path = "/" if file.name == APP else f"/ui/{file.name}"
            answer = await http.get(path)
            assert (answer.status_code, answer.content) == (200, file.read_bytes())
            if file.suffix == ".js":
                assert answer.headers["Content-Type"].startswith("text/javascript")
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            again = await http.get(path, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert (await http.head("/jobs")).content == b""
        for path in ("/ui/", "/ui/app.py", "/ui/../app.py", "/ui/%2e%2e/app.py", "/ui/index.html"):
            assert (await http.get(path)).status_code == 404


async def test_every_page_of_the_app_is_the_same_file_which_looks_at_its_path(app: FastAPI) -> None:
    async with client(app) as http:
        for path in PAGES:
            answer = await http.get(path.format(name="colorize"))
            assert answer.content == (STATIC / "index.html").read_bytes(), path
        assert (await http.get("/services")).status_code == 404
        assert (await http.get("/services/colorize/else")).status_code == 404


@pytest.mark.parametrize("oidc", [False, True])
async def test_a_page_learns_whether_there_are_accounts_and_whether_its_browser_has_a_session(*, oidc: bool) -> None:
    made = FastAPI()
    add_pages(made, oidc=oidc, cookies={"a_session"})
    async with client(made) as http:
        answer = await http.get("/ui/about.json", headers={"Cookie": "another=1"})
        assert answer.json() == {"oidc": oidc, "session": False}
        assert answer.headers["Cache-Control"] == "no-store"
        answer = await http.get("/ui/about.json", headers={"Cookie": "a_session=secret"})
        assert answer.json() == {"oidc": oidc, "session": True}


def test_all_that_a_browser_may_load_is_small() -> None:
    assert sum(len(gzip.compress(file.read_bytes())) for file in FILES) <= MAX_BUNDLE_BYTES


def test_the_lock_of_what_pages_are_built_with_names_no_registry() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for name, package in packages.items():
        assert "integrity" in package, name
        assert "resolved" not in package, name


def test_no_file_has_a_script_or_a_style_inline_or_names_another_host() -> None:
    for file in FILES:
        text = re.sub(OF_LIBRARIES, "", file.read_text())
        assert re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}", text) == [], file.name
        if file.suffix == ".html":
            assert re.findall(r"""<style|\bstyle=|\son\w+=|javascript:""", text) == []
            assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    for file in WRITTEN:
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not re.search(r"\{@html|\sstyle=", text), file.name


def test_every_file_that_is_loaded_is_there() -> None:
    names = {file.name for file in FILES}
    for file in FILES:
        for loaded in re.findall(r'"(?:/ui|\.)/([\w.-]+\.(?:js|css|svg))"', file.read_text()):
            assert loaded in names, f"{file.name} loads {loaded}"


def test_the_page_knows_how_large_a_photo_may_be() -> None:
    (limit,) = re.findall(r"MAX_PHOTO_BYTES = ([\d_]+);", (WEB / "src" / "lib" / "uploads.svelte.ts").read_text())
    assert int(limit) == MAX_PHOTO_BYTES
    words = f"{MAX_PHOTO_BYTES // 1024**2} MiB"
    assert f"up to {words}" in (STATIC / "app.js").read_text()
    assert f"larger than {words}" in (STATIC / "app.js").read_text()


def test_only_what_is_not_built_is_copied_as_it_is() -> None:
    assert [file.name for file in (WEB / "public").iterdir()] == ["icon.svg"]
    assert {file.name for file in FILES} == {"index.html", "app.js", "app.css", "icon.svg"}


def test_the_wheel_has_every_file(tmp_path: pathlib.Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    shipped = set(zipfile.ZipFile(wheel).namelist())
    assert {f"controlplane/ui/static/{file.name}" for file in FILES} <= shipped
