"""The set-up script: which package index it asks, what it believes, and its one line when it cannot go on."""

import ast
import base64
import hashlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator

import pytest

from deploy import setup_venv

BODY = b"a wheel"
SHA256 = hashlib.sha256(BODY).hexdigest()
FILE = "thing-1.0-py3-none-any.whl"
VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT", "SSL_CERT_FILE")


class Index(http.server.ThreadingHTTPServer):
    """A package index on loopback: pages in JSON under /json, in HTML under /html; it notes who asked with what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), IndexPages)
        self.seen: list[tuple[str, str | None]] = []

    def address(self, kind: str, who: str = "") -> str:
        return f"http://{who}127.0.0.1:{self.server_address[1]}/{kind}"


class IndexPages(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        pages = {
            "/json/thing/": json.dumps({"files": [{"url": "other.whl"}, {"url": f"/files/{FILE}"}]}).encode(),
            "/html/thing/": f'<a href="../../files/{FILE}#sha256={SHA256}&amp;x">{FILE}</a>'.encode(),
            f"/files/{FILE}": BODY,
        }
        body = pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Stay silent."""


@pytest.fixture
def index() -> Iterator[Index]:
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _bare_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_an_old_python_can_read_as_far_as_its_own_refusal() -> None:
    text = pathlib.Path(setup_venv.__file__).read_text()
    ast.parse(text, feature_version=(3, 7))
    assert text.index("sys.version_info < (3, 11)") < text.index("import base64")


def test_pip_conf_names_the_index_and_the_environment_overrules_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    config = tmp_path / "config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\nindex-url = https://mirror.example/simple/\n")
    assert setup_venv.index_url() == "https://mirror.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert setup_venv.index_url() == "https://other.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "company=https://third.example/simple/")
    assert setup_venv.index_url() == "https://third.example/simple"


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_file_is_found_on_either_kind_of_index_page(index: Index, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.address(kind))
    assert setup_venv.fetch("thing", FILE, SHA256) == BODY


@pytest.mark.integration
def test_a_wrong_hash_ends_it(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.address("json"))
    with pytest.raises(SystemExit, match=rf"^make venv: {re.escape(FILE)} has sha256 {SHA256}, expected 00: not used$"):
        setup_venv.fetch("thing", FILE, "00")


@pytest.mark.integration
def test_a_password_in_the_index_address_becomes_a_header(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.address("json", who="ann:s%40me@"))
    setup_venv.file_address("thing", FILE)
    assert index.seen == [("/json/thing/", "Basic " + base64.b64encode(b"ann:s@me").decode())]


@pytest.mark.integration
def test_a_file_or_page_that_is_not_there_is_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.address("json"))
    with pytest.raises(SystemExit, match=r"^make venv: the package index has no nothing\.whl$"):
        setup_venv.file_address("thing", "nothing.whl")
    with pytest.raises(SystemExit, match=r"^make venv: http://127\.0\.0\.1:\d+/json/nothing/ answered 404"):
        setup_venv.file_address("nothing", FILE)


@pytest.mark.integration
def test_an_index_out_of_reach_is_one_line_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SystemExit, match=r"^make venv: cannot reach .*; for a mirror set PIP_INDEX_URL[^\n]*$"):
        setup_venv.file_address("thing", FILE)


LOCK_WITH_CUDA = """# made by make lock
sympy==1.14.0 \\
    --hash=sha256:aa
    # via torch
nvidia-cudnn-cu13==9.20.0.48 ; sys_platform == 'linux' \\
    --hash=sha256:bb
    # via torch
torch==2.13.0 \\
    --hash=sha256:cc \\
    --hash=sha256:dd
    # via -r deploy/torch.in
triton==3.7.1 ; sys_platform == 'linux' \\
    --hash=sha256:ee
"""


def test_the_lock_for_cpus_has_the_pinned_build_and_nothing_of_cuda() -> None:
    made = setup_venv.cpu_lock(LOCK_WITH_CUDA, "torch==2.13.0+cpu", "ff")
    assert made.startswith("# made by make lock\nsympy==1.14.0 \\\n    --hash=sha256:aa\n")
    assert made.rstrip().endswith("torch==2.13.0+cpu --hash=sha256:ff")
    assert not re.search("nvidia|triton|sha256:(bb|cc|dd|ee)", made)


def test_the_builds_for_cpus_are_of_the_locked_release() -> None:
    (locked,) = re.findall(r"(?m)^torch==\S+", setup_venv.TORCH_LOCK.read_text())
    made = setup_venv.cpu_lock(setup_venv.TORCH_LOCK.read_text(), "torch==9+cpu", "ff")
    assert {pin.partition("+")[0] for pin, _ in setup_venv.TORCH_CPU_WHEELS.values()} == {locked}
    assert "nvidia" not in re.sub(r"(?m)^ *#.*", "", made)
