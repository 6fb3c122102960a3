"""The catalogue of message codes: what each means, and the command that mends it.

A code is for ever: texts change with releases, and people search for, and scripts match, the code alone. So no number
is used twice, and what is no longer said leaves its number behind. HS00.. are errors of a command or of the API,
HS01.. what is to be said of a service and its rollout, HS03.. what is to be said of a declaration.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final


class Level(enum.StrEnum):
    """How much a message matters."""

    ERROR = "Error"
    """Something does not work, or was refused."""
    WARN = "Warn"
    """Something waits for a person, or soon will."""
    INFO = "Info"
    """Worth knowing; nothing is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Code:
    """One entry.

    *slug* is the same thing in words: for an error of the API it is the ``code`` of its answer. *run* is the command
    that mends it or shows more, with ``{service}`` and ``{subject}`` where it needs them; "" where no command can.
    """

    id: str
    slug: str
    level: Level
    title: str
    meaning: str
    run: str = ""


def _error(number: str, slug: str, title: str, meaning: str, run: str = "") -> Code:
    return Code(f"HS00{number}", slug, Level.ERROR, title, meaning, run)


_ERRORS: Final = (
    _error(
        "01", "usage", "The command line is wrong",
        "A command, an option or an argument is not known, is missing or has a value that it cannot have. Nothing was "
        "asked for.",
        "hueshift --help",
    ),
    _error(
        "02", "invalid_input", "A value is not valid",
        "The message names the field, what is wrong with it, and what would be right. Everything that is wrong with an "
        "input is said at once, and nothing was changed.",
    ),
    _error(
        "03", "unreachable", "The control plane cannot be reached",
        "No connection to the API's address came about: nothing listens there, or the network is in the way. The "
        "address is that of --url, else of HUESHIFT_URL. Envoys go on serving meanwhile.",
        "hueshift serve",
    ),
    _error(
        "04", "not_hueshift", "Something else answers at this address",
        "What answers there is not this version of Hueshift: a proxy's error page, another program, or a release that "
        "speaks differently. Check HUESHIFT_URL; update the older of both sides.",
    ),
    _error(
        "05", "no_key", "There is no API key",
        "The API wants a key and none was found: not in HUESHIFT_API_KEY, not in the file that HUESHIFT_API_KEY_FILE "
        "names, and not in the data folder of a control plane on this machine.",
        "hueshift keys create NAME",
    ),
    _error(
        "06", "unauthorized", "The API key is not accepted",
        "The key is not known here, or was revoked. It may be that of another control plane.",
        "hueshift keys list",
    ),
    _error(
        "07", "forbidden", "The API key may not do this",
        "The key is known, and what it asked for is for others to do. The message names the role and "
        "the service; the attempt is in the audit.",
        "hueshift keys grant NAME --role ROLE",
    ),
    _error(
        "08", "not_found", "There is no such thing",
        "The name is not known. The message lists names that are.",
        "hueshift list",
    ),
    _error(
        "09", "conflict", "It cannot be done in the present state",
        "The request is sound but contradicts what runs now; the message says what to do first. A value that someone "
        "else changed meanwhile is refused the same way: read it again, then decide again.",
    ),
    _error(
        "10", "service_unavailable", "Something that is needed does not answer",
        "The database or another part that the work depends on does not answer. Nothing was changed; ask again.",
    ),
    _error(
        "11", "internal", "The control plane made a mistake",
        "A defect of Hueshift. Nothing is known to have changed, and the log of `hueshift serve` has the details.",
    ),
    _error(
        "12", "too_many_requests", "Too many at once",
        "The caller has as many of something as one may have; it works again once some of them are gone.",
    ),
    _error(
        "13", "over_quota", "It would be more than was agreed",
        "What is agreed with the owner of the key is used up; the message names the quota.",
        "hueshift jobs owners",
    ),
    _error(
        "14", "gone", "It is not there any more",
        "It was there once and was removed after its time.",
    ),
    _error(
        "15", "request_entity_too_large", "It is too large",
        "The body of the request is larger than the API takes; the message says how much it takes.",
    ),
    _error(
        "16", "slow", "The control plane did not answer in time",
        "The connection stands and no answer came within 30 seconds. A request that changes something may be repeated: "
        "it is done once.",
    ),
    _error(
        "17", "negative", "The answer is no",
        "The command did its work and what it found is not what was wanted: a failed check, a bench out of its bounds.",
    ),
    _error(
        "18", "not_confirmed", "It destroys something, and nobody said yes",
        "The command removes something for good. On a terminal it asks; in a script it wants --yes.",
    ),
    _error(
        "19", "bad_request", "The request cannot be read",
        "Its body is not what its Content-Type says, for example no JSON in UTF-8.",
    ),
    _error(
        "20", "method_not_allowed", "The path does not take this method",
        "GET /openapi.json lists what each path takes.",
    ),
    _error(
        "21", "precondition_failed", "Someone else changed it meanwhile",
        "The change was to be made only upon what was read before (If-Match), or only if there was nothing yet "
        "(If-None-Match), and that is not so any more. Nothing was changed; read it again, then decide again.",
    ),
)  # fmt: skip


def _of_service(number: str, slug: str, level: Level, title: str, meaning: str, run: str = "") -> Code:
    return Code(f"HS01{number}", slug, level, title, meaning, run)


_SERVICE: Final = (
    _of_service(
        "01", "gate", Level.INFO, "A gate waits for a person",
        "The plan asks for a person before the next step. The judge watches on: a breach still rolls back.",
        "hueshift promote {service}",
    ),
    _of_service(
        "02", "held_by_person", Level.INFO, "Someone paused the rollout",
        "It stands until someone resumes it. The judge watches on: a breach still rolls back.",
        "hueshift resume {service}",
    ),
    _of_service(
        "03", "inconclusive", Level.WARN, "The evidence did not suffice in time",
        "The plan's deadline passed before the judge could say yes or no: too little traffic, or a difference too "
        "small to tell. The rollout stands until a person decides.",
        "hueshift explain {service}",
    ),
    _of_service(
        "04", "stopped_by_refusal", Level.WARN, "The rollout stands because an Envoy refused its configuration",
        "The fleet runs what all Envoys acknowledged last. Mend what Envoy names, then resume.",
        "hueshift proxies --state nacked",
    ),
    _of_service(
        "05", "telemetry_lost", Level.WARN, "The rollout stands because Envoys fell silent",
        "Without telemetry the judge can neither pass nor fail a version, so nothing moves. It is no sign of a bad "
        "version.",
        "hueshift proxies",
    ),
    _of_service(
        "06", "breach_asked", Level.WARN, "An objective is broken, and a person is to decide",
        "The objective asks before it rolls back. Abort to give the traffic back, resume to go on.",
        "hueshift explain {service}",
    ),
    _of_service(
        "07", "fleet_behind", Level.WARN, "An Envoy has not acknowledged the newest configuration",
        "A weight is live when every Envoy has acknowledged it, so the judge's clock does not start before.",
        "hueshift proxy {subject} diff",
    ),
    _of_service(
        "08", "no_fleet", Level.WARN, "No Envoy is connected",
        "Nobody serves this service by our configuration, so no weight is live and nothing can be judged.",
        "hueshift envoy --node-id NAME",
    ),
    _of_service(
        "09", "envoy_refuses", Level.ERROR, "An Envoy refuses its configuration",
        "It says so in its own words, and runs on with the last configuration that it took.",
        "hueshift proxy {subject} diff",
    ),
    _of_service(
        "10", "revision_rejected", Level.ERROR, "The newest declaration was refused",
        "Envoy did not take it, so the revision before it is served. Mend the file and apply it again.",
        "hueshift lint -f FILE",
    ),
    _of_service(
        "11", "no_healthy_worker", Level.ERROR, "A version has no healthy worker",
        "Envoy finds none of its workers healthy; requests to it fail. A rollout to it does not begin.",
        "hueshift proxies",
    ),
    _of_service(
        "12", "unhealthy_workers", Level.WARN, "A version has unhealthy workers",
        "Envoy leaves them out, and the others carry their share.",
        "hueshift proxies",
    ),
    _of_service(
        "13", "wrong_model", Level.ERROR, "A worker serves another model than the version pins",
        "What the version is judged by would not be what it is said to be.",
        "hueshift-worker models list",
    ),
    _of_service(
        "14", "pictures_blocked", Level.ERROR, "The new version's pictures are broken",
        "They are missing, grey, of another size or of wrong colours. The rollout does not step up.",
        "hueshift quality show {service}",
    ),
    _of_service(
        "15", "pictures_drift", Level.WARN, "The new version's pictures differ",
        "They are sound, and differ from the old ones by more than the owner allows.",
        "hueshift quality show {service}",
    ),
    _of_service(
        "16", "rolled_back", Level.INFO, "The rollout was taken back",
        "All traffic is the old version's again. The message says what was measured.",
        "hueshift explain {service}",
    ),
    _of_service(
        "17", "commands_wait", Level.INFO, "A command has not been carried out yet",
        "The controller carries commands out within moments. If this stays, no controller runs.",
        "hueshift history {service}",
    ),
    _of_service(
        "18", "no_traffic", Level.WARN, "The new version has a weight and gets no requests",
        "Nobody sends requests to this service through the Envoys, or all of them are pinned elsewhere. Without "
        "requests there is no evidence.",
        "hueshift explain {service}",
    ),
    _of_service(
        "19", "start_waits", Level.INFO, "A start waits",
        "It begins by itself once what it waits for is over: the rollout before it, its hour, or a freeze.",
        "hueshift queue {service}",
    ),
    _of_service(
        "20", "frozen", Level.INFO, "A freeze is in force",
        "No version gets more traffic until it ends; rollbacks, abort and undo work all the same.",
        "hueshift unfreeze {service}",
    ),
)  # fmt: skip

_DECLARATIONS: Final = (
    Code(
        "HS0301", "envoy_not_asked", Level.INFO, "Envoy's own validation was left out",
        "The declaration was checked by everything but a real Envoy: none was found here, it did not answer, or "
        "HUESHIFT_VALIDATE_WITH_ENVOY is off. The control plane asks its own before it serves anything.",
        "pip install 'hueshift[envoy]'",
    ),
)  # fmt: skip

CATALOGUE: Final[Mapping[str, Code]] = {code.id: code for code in (*_ERRORS, *_SERVICE, *_DECLARATIONS)}
"""All codes by number, in order."""

_BY_SLUG: Final = {code.slug: code for code in CATALOGUE.values()}


def by_slug(slug: str) -> Code:
    """Return the code of this *slug*; one that is unknown is a KeyError, which tests find."""
    return _BY_SLUG[slug]


def find_slug(slug: str) -> Code | None:
    """Return the code of the *slug* that an API sent; None where it is of another release."""
    return _BY_SLUG.get(slug)
