"""The control plane without the extra `quality`: it starts, and says that it compares no pictures."""

import subprocess
import sys

CODE = """
import sys
sys.modules["PIL"] = None
from prometheus_client import CollectorRegistry
from controlplane.clock import SystemClock
from controlplane.settings import Settings
from controlplane.wiring import _picture_gate
print(_picture_gate(Settings(), SystemClock(), CollectorRegistry()))
"""


def test_without_pillow_there_is_no_gate_and_nothing_else_is_missed() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
