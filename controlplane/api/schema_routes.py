"""JSON Schema of the documents, for editors: fetched without a key, as an editor has none."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path

from controlplane.api.envelopes import API_VERSION, KINDS
from controlplane.api.routing import ApiRoute
from controlplane.errors import NotFoundError

router = APIRouter(prefix="/v1/schemas", tags=["documents"], route_class=ApiRoute)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ANY: Final = "any"


@functools.cache
def schema_of(kind: str) -> Mapping[str, Any]:
    """Return the JSON Schema of *kind*, as it is written in file names, or of ``any`` kind.

    Raises:
        NotFoundError: There is none.
    """
    models = {name.lower(): model for name, model in KINDS.items()}
    if kind == ANY:
        schemas = [schema_of(name) for name in models]
        definitions: dict[str, Any] = {}
        for schema in schemas:
            definitions |= schema["$defs"]
        refs = {
            name: {part: value for part, value in schema_of(name).items() if part not in {"$schema", "$id", "$defs"}}
            for name in models
        }
        return {
            "$schema": DIALECT,
            "$id": _address(ANY),
            "title": "Any document",
            "oneOf": [{"$ref": f"#/$defs/{kind_name}Any"} for kind_name in refs],
            "$defs": definitions | {f"{name}Any": schema for name, schema in refs.items()},
        }
    if kind not in models:
        raise NotFoundError("schema", kind, (*models, ANY))
    found = models[kind].model_json_schema(by_alias=True)
    if kind == "rollout":  # a step may be its weight alone
        steps = found["$defs"]["RolloutBody"]["properties"]["steps"]["anyOf"][0]
        steps["items"] = {"anyOf": [steps["items"], {"type": "string", "examples": ["5%"]}]}
    found["properties"]["apiVersion"]["examples"] = [API_VERSION]
    return {"$schema": DIALECT, "$id": _address(kind), **found}


def schema_names() -> tuple[str, ...]:
    """Return what `schema_of` takes."""
    return (*(name.lower() for name in KINDS), ANY)


def _address(kind: str) -> str:
    return f"https://hueshift.dev/schemas/v1/{kind}.json"


@router.get("")
async def list_schemas() -> dict[str, str]:
    """List the kinds of documents with the paths of their schemas."""
    return {name: f"/v1/schemas/{name}.json" for name in schema_names()}


@router.get("/{kind}.json")
async def show_schema(
    kind: Annotated[str, Path(description="service, version, slo, plan, rollout or any.", max_length=20)],
) -> dict[str, Any]:
    """Show the JSON Schema of one kind of document, for editors and checks."""
    return dict(schema_of(kind))
