"""Pure: the task's JSON, as any producer writes it: ``task_id``, ``image_url``, ``workflow_type``, ``parameters``.

``{"task_id": "7f3a", "image_url": "https://…", "workflow_type": "DDColor….json", "parameters": {"size": 680, "model":
"ddcolor-imagenet"}}``. All but ``workflow_type`` may be left out; ``priority`` (``normal`` or ``vip``) is our own
addition. A field that is not known is refused, never ignored.
"""

from collections.abc import Mapping
from typing import Any, Final

from controlplane.errors import InvalidInputError
from controlplane.jobs.model import Order

FIELDS: Final = ("task_id", "image_url", "workflow_type", "parameters", "priority")
PARAMETERS: Final = ("size", "model")
PRIORITIES: Final = ("normal", "vip")
MAX_URL_CHARS: Final = 2_000


def read_task(document: object) -> Order:
    """Read a task.

    Args:
        document: What the JSON held.

    Raises:
        InvalidInputError: A field is missing, not known, or of another type.
    """
    task = _mapping("body", document, FIELDS)
    parameters = _mapping("parameters", task.get("parameters") or {}, PARAMETERS)
    workflow = _text("workflow_type", task.get("workflow_type"))
    if workflow is None:
        raise InvalidInputError("workflow_type", "is missing", "name the workflow; GET /v1/job-kinds lists them")
    priority = _text("priority", task.get("priority")) or PRIORITIES[0]
    if priority not in PRIORITIES:
        raise InvalidInputError("priority", f"{priority[:40]!r} is not known", f"use one of: {', '.join(PRIORITIES)}")
    url = _text("image_url", task.get("image_url"))
    if url is not None and len(url) > MAX_URL_CHARS:
        raise InvalidInputError("image_url", f"has {len(url)} characters", f"use at most {MAX_URL_CHARS}")
    return Order(
        workflow=workflow,
        task_id=_text("task_id", task.get("task_id")),
        model=_text("parameters.model", parameters.get("model")),
        size=_size(parameters.get("size")),
        vip=priority == "vip",
        image_url=url,
    )


def _mapping(field: str, value: object, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(field, "is no JSON object", "send a task: {...}")
    prefix = "" if field == "body" else f"{field}."
    for name in value:
        if name not in known:
            raise InvalidInputError(f"{prefix}{str(name)[:60]}", "is not a field here", f"use: {', '.join(known)}")
    return value


def _text(field: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    shown = "" if field == "image_url" else f"{str(value)[:40]} "  # an address may hold a secret
    raise InvalidInputError(field, f"{shown}is not text", "write it in quotes")


def _size(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len("4096"):
        return int(value)  # forms and query strings know text only
    raise InvalidInputError("parameters.size", f"{str(value)[:40]!r} is not a number of pixels", "write it like 640")
