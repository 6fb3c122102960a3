"""Measures what a request costs beside the network: a real worker process, one client, CPU as the worker counts it."""

import http.client
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from PIL import Image

from inference_worker.errors import ModelError

SAMPLES: Final = Path(__file__).parent / "samples"
KINDS: Final = (("JPEG", "image/jpeg", 10.0), ("PNG", "image/png", 35.0))
"""Name and type of the answer, and the milliseconds of CPU that a request may cost beside the network at 512 x 512."""
WARM_UP: Final = 5


def make_photo(side_px: int) -> bytes:
    """A grey JPEG with as much detail as photos have: four of the samples side by side."""
    half = (side_px + 1) // 2
    canvas = Image.new("L", (side_px, side_px))
    for place, name in enumerate(("astronaut", "koala", "windmill", "dam")):
        with Image.open(SAMPLES / f"{name}.jpg") as sample:
            canvas.paste(sample.convert("L").resize((half, half)), (half * (place % 2), half * (place // 2)))
    target = io.BytesIO()
    canvas.convert("RGB").save(target, "JPEG", quality=90)
    return target.getvalue()


@contextmanager
def start_worker(model: str) -> Iterator[int]:
    """Run a worker of *model* in a process of its own; yields its port once it is ready.

    Raises:
        ModelError: It did not become ready.
    """
    command = [sys.executable, "-m", "inference_worker", "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - ourselves
        try:
            said = process.stderr or io.StringIO()
            port = 0
            for line in said:
                if started := re.search(r"worker\.started .*port=(\d+)", line):
                    port = int(started[1])
                if "model.became_ready" in line:
                    break
            else:
                raise ModelError("bench: the worker did not become ready; run `hueshift-worker serve` and see")
            yield port
        finally:
            process.terminate()


def read_cpu_ms(connection: http.client.HTTPConnection) -> dict[str, float]:
    """Milliseconds of CPU so far: `process` in all, and of the stages `decode`, `model` and `encode`."""
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    found = re.findall(r'^hueshift_worker_stage_cpu_seconds_total\{stage="(\w+)"\} (\S+)$', text, re.MULTILINE)
    process = re.search(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)
    if process is None:
        raise ModelError("bench: this system does not tell a process's CPU; run it on Linux")
    return {"process": 1000 * float(process[1])} | {stage: 1000 * float(value) for stage, value in found}


def measure_kind(port: int, photo: bytes, accept: str, requests: int) -> dict[str, float]:
    """Milliseconds of CPU per request, as `read_cpu_ms` names them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "image/jpeg", "accept": accept}
    before: dict[str, float] = {}
    for number in range(WARM_UP + requests):
        if number == WARM_UP:
            before = read_cpu_ms(connection)
        connection.request("POST", "/repair", photo, headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            raise ModelError(f"bench: the worker answered {answer.status}: {body[:200]!r}")
    after = read_cpu_ms(connection)
    connection.close()
    return {name: (value - before[name]) / requests for name, value in after.items()}


def run_bench(*, model: str, side_px: int, requests: int) -> int:
    """Print the figures; exit code 1 if one is above its budget, which holds for 512 x 512 and smaller.

    Raises:
        ModelError: The worker does not answer as it should.
    """
    photo = make_photo(side_px)
    sys.stdout.write(
        f"{side_px} x {side_px}, JPEG in ({len(photo) / 1024:.0f} KiB), model {model}, ms of CPU a request\n"
    )
    sys.stdout.write("out     beside the network   budget   decode   network   encode   HTTP and rest\n")
    is_good = True
    with start_worker(model) as port:
        for name, accept, budget_ms in KINDS:
            cpu = measure_kind(port, photo, accept, requests)
            beside = cpu["process"] - cpu["model"]
            rest = beside - cpu["decode"] - cpu["encode"]
            is_good &= beside <= budget_ms or side_px > 512
            sys.stdout.write(
                f"{name:8}{beside:18.1f}{budget_ms:9.0f}{cpu['decode']:9.1f}{cpu['model']:10.1f}"
                f"{cpu['encode']:9.1f}{rest:16.1f}\n"
            )
    return 0 if is_good else 1
