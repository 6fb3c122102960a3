"""The pages' files: served without a key, with everything forbidden that they do not need, and in the wheel."""

import pathlib
import re
import zipfile

import httpx
import pytest
from fastapi import FastAPI
from hatchling.builders.wheel import WheelBuilder

from controlplane.pictures.facts import MAX_PHOTO_BYTES
from controlplane.ui.app import PAGES, STATIC, add_pages

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = sorted(STATIC.iterdir())


@pytest.fixture
def app() -> FastAPI:
    made = FastAPI()
    add_pages(made)
    return made


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
    pages = {name: path for path, name in PAGES.items()}
    async with client(app) as http:
        for file in FILES:
            path = pages.get(file.name, f"/ui/{file.name}")
            answer = await http.get(path)
            assert (answer.status_code, answer.content) == (200, file.read_bytes())
            if file.suffix == ".js":
                assert answer.headers["Content-Type"].startswith("text/javascript")
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            again = await http.get(path, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert (await http.head("/jobs")).content == b""
        for path in ("/ui/", "/ui/app.py", "/ui/../app.py", "/ui/%2e%2e/app.py", "/ui/jobs.html"):
            assert (await http.get(path)).status_code == 404


def test_no_file_has_a_script_or_a_style_inline_or_names_another_host() -> None:
    for file in FILES:
        text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}", text) == [], file.name
        if file.suffix == ".html":
            assert re.findall(r"""<style|\bstyle=|\son\w+=|javascript:""", text) == []
            assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


def test_every_file_that_is_loaded_is_there() -> None:
    names = {file.name for file in FILES}
    for file in FILES:
        for loaded in re.findall(r'"(?:/ui|\.)/([\w.-]+\.(?:js|css|svg))"', file.read_text()):
            assert loaded in names, f"{file.name} loads {loaded}"


def test_the_page_knows_how_large_a_photo_may_be() -> None:
    (limit,) = re.findall(r"MAX_PHOTO_BYTES = (\d+);", (STATIC / "uploads.js").read_text())
    assert int(limit) == MAX_PHOTO_BYTES
    assert f"up to {MAX_PHOTO_BYTES // 1024**2} MiB" in (STATIC / "jobs.html").read_text()


def test_the_wheel_has_every_file(tmp_path: pathlib.Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    shipped = set(zipfile.ZipFile(wheel).namelist())
    assert {f"controlplane/ui/static/{file.name}" for file in FILES} <= shipped
