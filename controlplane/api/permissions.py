"""What each route takes: the one table of roles. A route that is not in it stops the start.

A service that a caller has no role on is not there for them: 404, in the words of one that does not exist, whether it
does or not. So 403 tells nobody what they could not read anyway, and it names the role that is missing.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from controlplane.auth.roles import EVERY, Principal, PrincipalKind, Role
from controlplane.errors import ForbiddenError, HiddenError


class Scope(enum.Enum):
    """Where a route's service is found."""

    EVERY = "every"
    """It is about all services."""
    NAME = "name"
    """In its path, as ``name``."""
    ROLLOUT = "rollout"
    """In its path there is a ``rollout``, which belongs to one."""
    ANY = "any"
    """It shows of each service what the caller may see."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What a route takes: *role*, where *scope* says; without a role, to be known.

    *shared*: whoever came by a share link may, if the rest holds; *public*: nobody need be known where reading is
    public.
    """

    role: Role | None
    scope: Scope
    shared: bool = True
    public: bool = False


Rules: TypeAlias = Mapping[str, Rule]

OPEN: Final = Rule(None, Scope.ANY, public=True)
"""Nobody need be known: it is how one becomes it. The route itself asks for nothing here."""
LISTED: Final = Rule(None, Scope.ANY, public=True)
OWN: Final = Rule(None, Scope.ANY, shared=False)
"""Whoever has a key or an account, for what is theirs alone: never public."""
KNOWN: Final = Rule(None, Scope.ANY, shared=False, public=True)
SEES: Final = Rule(Role.VIEWER, Scope.NAME, public=True)
SEES_ROLLOUT: Final = Rule(Role.VIEWER, Scope.ROLLOUT, public=True)
SEES_ALL: Final = Rule(Role.VIEWER, Scope.EVERY, public=True)
READS_ALL: Final = Rule(Role.VIEWER, Scope.EVERY)
OPERATES: Final = Rule(Role.OPERATOR, Scope.NAME)
OPERATES_ALL: Final = Rule(Role.OPERATOR, Scope.EVERY)
APPROVES: Final = Rule(Role.APPROVER, Scope.NAME)
OWNS: Final = Rule(Role.ADMIN, Scope.NAME)
OWNS_ALL: Final = Rule(Role.ADMIN, Scope.EVERY)

RULES: Final[Rules] = {
    "GET /v1/services": LISTED,
    "GET /v1/services/{name}": SEES,
    "PUT /v1/services/{name}": OWNS,
    "PUT /v1/services/{name}/split": APPROVES,
    "GET /v1/services/{name}/explain": SEES,
    "GET /v1/services/{name}/history": SEES,
    "GET /v1/services/{name}/events": SEES,
    "GET /v1/services/{name}/status": SEES,
    "GET /v1/services/{name}/traffic": SEES,
    "GET /v1/services/{name}/rollouts": SEES,
    "GET /v1/services/{name}/series": SEES,
    "GET /v1/services/{name}/document": SEES,
    "DELETE /v1/services/{name}": OWNS,
    "GET /v1/documents": LISTED,
    "POST /v1/documents": OWN,
    "GET /v1/events": LISTED,
    "POST /v1/services/{name}/rollouts": OPERATES,
    "POST /v1/services/{name}/rollout/pause": OPERATES,
    "POST /v1/services/{name}/rollout/resume": OPERATES,
    "POST /v1/services/{name}/rollout/abort": OPERATES,
    "POST /v1/services/{name}/rollout/promote": APPROVES,
    "POST /v1/services/{name}/rollout/gate": APPROVES,
    "POST /v1/services/{name}/rollout/undo": OPERATES,
    "POST /v1/services/{name}/rollout/retry": OPERATES,
    "GET /v1/services/{name}/queue": SEES,
    "POST /v1/services/{name}/queue/{start}/cancel": OPERATES,
    "POST /v1/services/{name}/freeze": OPERATES,
    "POST /v1/services/{name}/unfreeze": APPROVES,
    "GET /v1/freezes": LISTED,
    "POST /v1/freeze": OWNS_ALL,
    "POST /v1/unfreeze": OWNS_ALL,
    "POST /v1/rollouts/abort": OWNS_ALL,
    "GET /v1/rollouts/{rollout}": SEES_ROLLOUT,
    "POST /v1/rollouts/{rollout}/replay": SEES_ROLLOUT,
    "GET /v1/rollouts/{rollout}/quality": SEES_ROLLOUT,
    "GET /v1/rollouts/{rollout}/quality/{number}": SEES_ROLLOUT,
    "GET /v1/rollouts/{rollout}/quality/{number}/pictures/{place}": SEES_ROLLOUT,
    "GET /v1/proxies": SEES_ALL,
    "GET /v1/proxies/{node:path}": SEES_ALL,
    "GET /v1/proxies/{node:path}/resources": SEES_ALL,
    "GET /v1/job-kinds": KNOWN,
    "GET /v1/job-kinds/{kind}": KNOWN,
    "PUT /v1/job-kinds/{kind}": OWNS_ALL,
    "GET /v1/job-figures": SEES_ALL,
    "GET /v1/job-queues": OPERATES_ALL,
    "GET /v1/job-drains": KNOWN,
    "PUT /v1/job-drains": OPERATES_ALL,
    "GET /v1/job-owners": READS_ALL,
    "GET /v1/job-owners/{owner}": OWN,
    "PUT /v1/job-owners/{owner}": OWNS_ALL,
    "DELETE /v1/job-owners/{owner}": OWNS_ALL,
    "GET /v1/jobs": OWN,
    "POST /v1/jobs": OWN,
    "GET /v1/jobs/events": OWN,
    "GET /v1/jobs/{job}": OWN,
    "DELETE /v1/jobs/{job}": OWN,
    "GET /v1/jobs/{job}/result": OWN,
    "GET /v1/jobs/{job}/photo": OWN,
    "GET /v1/jobs/{job}/events": OWN,
    "GET /v1/jobs/{job}/attempts": OWN,
    "POST /v1/jobs/{job}/cancel": OWN,
    "POST /v1/jobs/{job}/retry": OWN,
    "GET /v1/job-callbacks": OWN,
    "GET /v1/job-callbacks/{callback}": OWN,
    "PUT /v1/job-callbacks/{callback}": OWN,
    "DELETE /v1/job-callbacks/{callback}": OWN,
    "POST /v1/job-callbacks/{callback}/secret": OWN,
    "POST /v1/job-callbacks/{callback}/test": OWN,
    "GET /v1/notifications": Rule(None, Scope.ANY, shared=False),
    "PUT /v1/notifications/{name}/{target}": OWNS,
    "DELETE /v1/notifications/{name}/{target}": OWNS,
    "POST /v1/notifications/{name}/{target}/secret": OWNS,
    "POST /v1/notifications/{name}/{target}/test": OWNS,
    "GET /v1/notifications/{name}/{target}/deliveries": OWNS,
    "POST /v1/notifications/{name}/{target}/deliveries/{number}/replay": OWNS,
    "POST /v1/session": OPEN,
    "GET /v1/session": Rule(None, Scope.ANY),
    "DELETE /v1/session": Rule(None, Scope.ANY),
    "GET /v1/shares": OWN,
    "POST /v1/shares": OWN,
    "DELETE /v1/shares/{share}": OWN,
    "GET /v1/audit": Rule(None, Scope.ANY),
    "GET /v1/keys": OWNS_ALL,
    "POST /v1/keys": OWNS_ALL,
    "DELETE /v1/keys/{key}": OWNS_ALL,
    "PUT /v1/keys/{key}/grants": OWNS_ALL,
}
"""The rule of each route that needs anybody to be known, by method and path.

What `POST /v1/documents` takes depends on the documents: `applying` asks for each service that they are about.
"""

RULELESS: Final = frozenset({"GET /v1/schemas", "GET /v1/schemas/{kind}.json"})
"""Routes that nobody need be known for: editors have no key, and schemas tell nothing of what is here."""


def check_complete(routes: Iterable[str], *, rules: Rules = RULES) -> None:
    """Make sure that no route of the API is open for want of a rule.

    Raises:
        LookupError: One has no rule, or a rule has no route.
    """
    found = set(routes) - RULELESS
    if found != set(rules):
        raise LookupError(f"api/permissions.py: no rule for {sorted(found - set(rules))}, no route for "
                          f"{sorted(set(rules) - found)}")  # fmt: skip


def refuse(principal: Principal, rule: Rule, *, service: str, kind: str = "service", name: str = "") -> None:
    """Refuse what *rule* does not let *principal* do.

    Args:
        principal: Who asks.
        rule: What the route takes.
        service: Which service it is about; `EVERY` or "" where the rule says so.
        kind: What the path names, if that is not the service itself,
        name: and what it is called.

    Raises:
        ForbiddenError: They may not.
        HiddenError: They may not even know of the service.
    """
    if principal.kind is PrincipalKind.SHARE and not rule.shared:
        raise ForbiddenError("a share link is for looking at what it shares; this takes an API key of one's own")
    if rule.role is None or principal.may(rule.role, service):
        return
    if service != EVERY and not principal.sees(service):
        raise HiddenError(kind, name or service, service=service)
    raise ForbiddenError(_words(principal, rule.role, service), service="" if service == EVERY else service)


def _words(principal: Principal, role: Role, service: str) -> str:
    where = "all services (*)" if service == EVERY else f"{service!r}"
    has = principal.role_on(service)
    words = (
        f"{principal.title} has {f'only the role {has.word}' if has else 'no role'} on {where}, and this takes"
        f" {role.word}"
    )
    if principal.kind is not PrincipalKind.KEY:
        return f"{words}; ask an admin"
    option = "" if service == EVERY else f" --service {service}"
    return f"{words}; an admin gives it with: hueshift keys grant {principal.name} --role {role.word}{option}"
