"""The JSON Schemas of documents: committed as the code makes them, and true of every example that we ship."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from controlplane.api.envelopes import is_bare, read_envelope
from controlplane.api.schema_routes import schema_names, schema_of
from controlplane.errors import InvalidInputError

ROOT = pathlib.Path(__file__).parents[2]
FENCE = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
WRONG = [
    {"apiVersion": "hueshift.dev/v2", "kind": "Plan", "metadata": {"name": "x"}, "spec": {}},
    {"apiVersion": "hueshift.dev/v1", "kind": "Plan", "metadata": {"name": "x"}, "spec": {"stps": []}},
    {"apiVersion": "hueshift.dev/v1", "kind": "Version", "metadata": {"name": "x"}, "spec": {"service": "s"}},
    {"apiVersion": "hueshift.dev/v1", "kind": "Plan", "metadata": {}, "spec": {}},
]
HEAD = {"apiVersion": "hueshift.dev/v1", "metadata": {"name": "x"}}
RIGHT = [
    HEAD | {"kind": "SLO", "spec": {"objectives": [{"name": "e", "kind": "error_rate", "max": 0.01}]}},
    HEAD | {"kind": "Rollout", "spec": {"service": "s", "to": "v2", "from": "v1", "steps": ["5%", "100%"]}},
    HEAD | {"kind": "Rollout", "spec": {"service": "s", "to": "v2", "plan": {"deadline": "1h"}}},
    HEAD | {"kind": "Service", "spec": {"routes": [{"name": "r", "split": True}], "slos": ["a"], "plan": "b"}},
]


@pytest.mark.parametrize("name", schema_names())
def test_committed_schemas_are_those_of_the_code(name: str) -> None:
    path = ROOT / "docs" / "schemas" / f"{name}.json"
    assert json.loads(path.read_text()) == schema_of(name), f"run: hueshift schema {name} > {path.relative_to(ROOT)}"
    jsonschema.Draft202012Validator.check_schema(schema_of(name))


def examples() -> Iterator[tuple[str, Any]]:
    """Yield every document of ours in docs/ and deploy/."""
    for path in sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.y*ml"), ROOT / "README.md"]):
        text = path.read_text()
        for block in FENCE.findall(text) if path.suffix == ".md" else [text]:
            try:
                documents = list(yaml.safe_load_all(block))
            except yaml.YAMLError:
                continue  # a part of something; the tests of that document look at it
            for document in documents:
                if isinstance(document, dict) and document.get("apiVersion") == "hueshift.dev/v1":
                    yield str(path.relative_to(ROOT)), document


def test_the_examples_of_every_kind_keep_to_the_schema_and_to_the_code() -> None:
    found = list(examples())
    assert {document["kind"] for _, document in found} == {"Service", "Version", "SLO", "Plan", "Rollout"}
    validators = {name: jsonschema.Draft202012Validator(schema_of(name)) for name in schema_names()}
    for source, document in found:
        for name in (document["kind"].lower(), "any"):
            problems = [error.message for error in validators[name].iter_errors(document)]
            assert problems == [], source
        read_envelope(document)


@pytest.mark.parametrize("document", WRONG)
def test_schema_and_code_refuse_the_same(document: Any) -> None:
    assert not is_bare(document)
    assert not jsonschema.Draft202012Validator(schema_of("any")).is_valid(document)
    with pytest.raises(InvalidInputError):
        read_envelope(document)


@pytest.mark.parametrize("document", RIGHT)
def test_schema_and_code_take_the_same(document: Any) -> None:
    for name in ("any", document["kind"].lower()):
        jsonschema.Draft202012Validator(schema_of(name)).validate(document)
    read_envelope(document)
