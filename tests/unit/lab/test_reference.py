"""The committed reference of settings and metrics says what the program says."""

import pathlib
import re

from controlplane.lab.reference import metrics_lines, settings_lines
from controlplane.settings import Settings

DOCS = pathlib.Path(__file__).parents[3] / "docs"


def test_the_reference_of_settings_is_current_and_says_something_of_each() -> None:
    written = (DOCS / "settings.md").read_text("utf-8")
    assert written == "\n".join(settings_lines()) + "\n", "run make docs"
    told = re.findall(r"(?m)^\| `HUESHIFT_(\w+)` \| .* \| (.+) \|$", written)
    assert [name.lower() for name, words in told if words.strip()] == list(Settings.model_fields)


def test_the_reference_of_metrics_is_current_and_says_something_of_each() -> None:
    written = (DOCS / "metrics.md").read_text("utf-8")
    assert written == "\n".join(metrics_lines()) + "\n", "run make docs"
    told = re.findall(r"(?m)^\| `(hueshift_\w+)` \| \w+ \| .* \| (.+) \|$", written)
    assert len(told) > 30
    assert all(words.strip() for _, words in told)
