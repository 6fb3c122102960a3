"""What each operation can answer, beyond what its shape tells: what completes the OpenAPI document.

`reference.py` knows by itself that a route with a key may answer 401, one with a body 413, and so on. What it cannot
know stands here, by operation id. A test walks the document, and another one sends whatever the document allows.
"""

from collections.abc import Mapping
from typing import Any, Final

NO_SUCH: Final = (404,)
STEERING: Final = (404, 409)

REFUSALS: Final[Mapping[str, tuple[int, ...]]] = {
    # services
    "showService": NO_SUCH,
    "setSplit": STEERING,
    "showHistory": NO_SUCH,
    "followEvents": NO_SUCH,
    "showTraffic": NO_SUCH,
    "showSeries": NO_SUCH,
    "followEverything": (404, 429),
    # rollouts
    "startRollout": STEERING,
    "listRollouts": NO_SUCH,
    "showRollout": NO_SUCH,
    "showStatus": NO_SUCH,
    "pauseRollout": STEERING,
    "resumeRollout": STEERING,
    "promoteRollout": STEERING,
    "abortRollout": STEERING,
    "undoRollout": STEERING,
    "retryRollout": STEERING,
    "showQueue": NO_SUCH,
    "cancelStart": STEERING,
    "freezeService": NO_SUCH,
    "unfreezeService": STEERING,
    "unfreezeAll": STEERING,
    "explainRollout": NO_SUCH,
    "replayRollout": STEERING,
    "listComparisons": NO_SUCH,
    "showComparison": NO_SUCH,
    "showPicture": NO_SUCH,
    # fleet
    "showProxy": NO_SUCH,
    "showResources": NO_SUCH,
    # jobs
    "submitJob": (409, 429),
    "listJobs": NO_SUCH,
    "showJob": NO_SUCH,
    "showResult": (404, 409, 410),
    "showPhoto": (404, 409, 410),
    "cancelJob": STEERING,
    "deleteJob": NO_SUCH,
    "followJobs": (429,),
    "followJob": (404, 429),
    "listAttempts": NO_SUCH,
    "retryJob": STEERING,
    "showFigures": NO_SUCH,
    "setDrain": (404, 409),
    "showKind": NO_SUCH,
    "showOwner": NO_SUCH,
    "deleteOwner": NO_SUCH,
    "showCallback": NO_SUCH,
    "renewSecret": STEERING,
    "testCallback": NO_SUCH,
    "deleteCallback": NO_SUCH,
    # documents
    "applyDocuments": STEERING,
    "showDocument": NO_SUCH,
    "deleteService": STEERING,
    "showSchema": NO_SUCH,
    # gates and messages
    "decideGate": STEERING,
    "checkTarget": NO_SUCH,
    # access
    "createShare": NO_SUCH,
    "revokeShare": NO_SUCH,
    "beginSession": (401, 403, 429),
    "createKey": (409,),
    "revokeKey": STEERING,
    "setGrants": STEERING,
}
"""The statuses with which an operation may say no."""

_IMAGE: Final = {"schema": {"type": "string", "format": "binary"}}

CONTENT: Final[Mapping[str, Mapping[str, Any]]] = {
    "showPicture": {"image/jpeg": _IMAGE},
    "showResult": {"image/png": _IMAGE, "image/jpeg": _IMAGE, "image/tiff": _IMAGE},
    "showPhoto": {"image/png": _IMAGE, "image/jpeg": _IMAGE, "image/*": _IMAGE},
    "showMetrics": {"text/plain": {"schema": {"type": "string"}}},
}
"""What comes with 200 where that is no JSON."""

HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "submitJob": {"Location": "Where the job is."},
    "showResult": {"X-Model-Version": "The version that made it.", "Content-Disposition": "A name to keep it under."},
    "showPhoto": {"Content-Disposition": "A name to keep it under."},
}
"""Headers of an operation's success."""

PLACES: Final[Mapping[str, Any]] = {
    "name": "colorize",
    "rollout": "colorize-1",
    "start": "colorize-2",
    "number": 1,
    "place": 1,
    "node": "edge-1",
    "job": "fe8134dc67624788a0cd742ad84e8b86",
    "kind": "person",
    "owner": "ada",
    "callback": "shop",
    "target": "team",
    "share": 1,
    "key": "ci",
}
"""An example of each part of a path."""

OWN_KEYS: Final = frozenset({"submitJob"})
"""Operations that know their repetitions by other means than all others."""

TAGS: Final[Mapping[str, str]] = {
    "services": "What is declared, what is served of it, and what happened to it.",
    "rollouts": "Moves of traffic from one version to the next: start, steer, understand.",
    "events": "Everything that happens, told as it happens.",
    "fleet": "The Envoys: what each was sent, acknowledged, refused and runs.",
    "jobs": "Photos handed in to be coloured when there is room, and whoever hands them in.",
    "documents": "Everything about services as documents of one form, applied together; and their schemas.",
    "notifications": "Who is told of rollouts, by what way, and how far that is.",
    "access": "Keys, what each may do, and who did or tried what.",
    "operations": "For whoever runs the control plane; none of these needs a key.",
}
