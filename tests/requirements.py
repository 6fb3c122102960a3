"""What a test needs beyond the Python packages: a missing program skips it, in one line that says what to install."""

import importlib.util
import pathlib
import shutil
import sys

import pytest


def require(program: str, package: str) -> str:
    """Return the path of *program*, from this environment's bin folder or PATH.

    Where there is none, the test is skipped and names *package*; under HUESHIFT_REQUIRE_ALL=1 it fails (conftest.py).
    """
    beside = str(pathlib.Path(sys.executable).parent)
    found = shutil.which(program, path=beside) or shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is missing: install {package}")
    return found


def require_folder(module: str, package: str) -> pathlib.Path:
    """Return the folder of an importable *module* without importing it; skip as above."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{module} is missing: install {package}")
    return pathlib.Path(spec.submodule_search_locations[0])
