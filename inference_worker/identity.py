"""What a worker says it serves, so that releases can be pinned to it: `GET /models`, and labels of a metric."""

import dataclasses
import importlib.metadata
import json
import os
import re
from typing import Final

from inference_worker import VERSION
from inference_worker.cards import ModelCard

COMMIT_VARIABLE: Final = "HUESHIFT_COMMIT"
"""Images are built with the commit that they hold; a worker does not look for git."""
COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
SHORT: Final = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model: its own name and version, whatever label the worker answers under, and the checksum of its files."""

    name: str
    version: str
    family: str
    backend: str
    checksum: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The code and the models of one worker, the colorizer before the rgb-to-rgb model."""

    code_version: str
    models: tuple[ServedModel, ...]

    def describe(self) -> dict[str, object]:
        """The body of `GET /models`."""
        return dataclasses.asdict(self)


def describe_model(card: ModelCard) -> ServedModel:
    """What is said of a model."""
    return ServedModel(
        name=card.name,
        version=card.version,
        family=card.family.value,
        backend=card.backend.value,
        checksum=card.checksum,
    )


def find_code_version() -> str:
    """The package's version, and the commit where the image or the installer left it: `0.1.0+g0123456789ab`."""
    commit = os.environ.get(COMMIT_VARIABLE, "") or _read_installed_commit()
    return f"{VERSION}+g{commit[:SHORT]}" if COMMIT.fullmatch(commit) else VERSION


def _read_installed_commit() -> str:
    """The commit that pip installed from, by PEP 610; empty where it did not install from a repository."""
    try:
        text = importlib.metadata.distribution("hueshift").read_text("direct_url.json") or "{}"
        return str(json.loads(text)["vcs_info"]["commit_id"])
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return ""
