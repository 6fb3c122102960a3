"""docs/api.md: the OpenAPI document as a page to read, a section for each operation."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

Json: TypeAlias = Mapping[str, Any]

MAX_LINES: Final = 40
"""Of an example: longer ones are for programs, which read the document."""
_HEAD: Final = """# The REST API

Written by `hueshift openapi --markdown`; do not edit. Programs read [openapi.json](openapi.json), which a running
control plane also serves at `/openapi.json`.

"""


def write_page(document: Json) -> str:
    """Return the page for *document*."""
    parts = [_HEAD, document["info"]["description"], "\n"]
    for tag in document["tags"]:
        operations = list(_operations(document, tag["name"]))
        if operations:
            parts += [f"\n## {tag['name'].capitalize()}\n\n{tag['description']}\n"]
            parts += [_section(document, *each) for each in operations]
    parts += ["\n## Problems\n\n| status | code | what it means |\n| --- | --- | --- |\n"]
    for response in document["components"]["responses"].values():
        example = response["content"]["application/problem+json"]["example"]
        parts.append(
            f"| {example['status']} | `{example['code']}` | {example['title']}: {_cell(example['detail'])} |\n"
        )
    return "".join(parts)


def _operations(document: Json, tag: str) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"][0] == tag:
                yield path, method, operation


def _section(document: Json, path: str, method: str, operation: Json) -> str:
    lines = [f"\n### {method.upper()} {path}\n", f"`{operation['operationId']}`: {operation['description']}\n"]
    parameters = operation.get("parameters", [])
    if parameters:
        lines += ["| parameter | in | what |", "| --- | --- | --- |"]
        lines += [f"| `{each['name']}` | {each['in']} | {_parameter(each)} |" for each in parameters]
        lines.append("")
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        if "example" in content:
            lines += [f"Request (`{kind}`):\n", _example(content["example"])]
        else:
            lines.append(f"Or as `{kind}`.\n")
    for status, response in operation["responses"].items():
        for kind, content in response.get("content", {}).items():
            lines.append(f"Answer {status} (`{kind}`){_shape(content.get('schema', {}))}:\n")
            lines.append(_example(content["example"]) if "example" in content else "A picture.\n")
    says = [_answer(document, status, response) for status, response in operation["responses"].items()]
    return "\n".join([*lines, f"Answers: {', '.join(says)}.\n"])


def _parameter(parameter: Json) -> str:
    schema = parameter["schema"]
    facts = [parameter.get("description", "")]
    options = [schema, *schema.get("anyOf", ())]
    bounded = (each for each in options if "minimum" in each and "maximum" in each)
    facts += [f"{each['minimum']} to {each['maximum']}" for each in bounded]
    if schema.get("default") not in {None, ""}:
        facts.append(f"{schema['default']} if it is left out")
    return _cell("; ".join(fact.rstrip(".") for fact in facts if fact)) or "as above"


def _answer(document: Json, status: str, response: Json) -> str:
    if "$ref" not in response:
        return status
    problem = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return f"{status} {problem['description'][:1].lower()}{problem['description'][1:]}"


def _shape(schema: Json) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f", `{name}`" if name else ""


def _example(example: object) -> str:
    if isinstance(example, str):
        return f"```text\n{example.rstrip()}\n```\n"
    lines = json.dumps(example, indent=2, ensure_ascii=False).splitlines()
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], "…"]
    return "```json\n" + "\n".join(lines) + "\n```\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
