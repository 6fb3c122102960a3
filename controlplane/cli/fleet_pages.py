"""What `hueshift proxy` prints: one Envoy's resources in words.

Resources come as JSON in the words of Envoy's own config_dump; whatever is in them and has no column is left to
``-o yaml``.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controlplane.api.fleet_answers import ProxyConfigView, ProxyView, ResourceView, TypeConfigView
from controlplane.cli.fleet_table import SHORT, all_refusals, connection_text, refusals
from controlplane.cli.layout import Page
from controlplane.cli.output import age, as_yaml, clean, marked, new_table

NAMES: Final[Mapping[str, str]] = {"lds": "listeners", "rds": "routes", "cds": "clusters", "eds": "endpoints"}


# -- one Envoy ---------------------------------------------------------------------------------------------------------


def proxy_page(config: ProxyConfigView, what: str, *, wide: bool = False) -> RenderableType:
    """Show one Envoy: *what* is summary, diff, or one of `NAMES`."""
    if what == "diff":
        return _diff(config)
    refused = [Page(*all_refusals(config.proxy.node, config.types))]
    lost = [Text(_lost(config.proxy.node, each), style="yellow") for each in config.types if each.lost]
    if what == "summary":
        return Group(_head(config.proxy), "", _summary(config, wide=wide), *refused, *lost)
    tables = [_resources(each, config) for each in config.types if NAMES.get(each.type) == what and not each.lost]
    return Group(*tables, *refused, *lost)


def _head(proxy: ProxyView) -> Table:
    head = new_table("", "", header=False)
    head.add_row("Node:", clean(proxy.node))
    head.add_row("Cluster:", clean(proxy.cluster))
    head.add_row("Group:", _group_text(proxy))
    head.add_row("Program:", clean(proxy.user_agent) or "-")
    head.add_row("Connected:", connection_text(proxy))
    head.add_row("Replica:", clean(proxy.replica))
    head.add_row("Variant:", proxy.variant)
    return head


def _group_text(proxy: ProxyView) -> str:
    group = clean(proxy.group) or "-"
    match proxy.served_group:
        case None:
            return f"{group} (nothing is served to it yet)"
        case "":
            return f"{group} (no service names it: served as every Envoy is)"
        case served:
            return group if served == proxy.group else f"{group} (served as {clean(served)})"


def _summary(config: ProxyConfigView, *, wide: bool) -> Table:
    table = new_table("TYPE", "STATUS", "RUNS", "WANTED", "RESOURCES")
    for each in config.types:
        running = [held for held in each.resources if held.version]
        names = ", ".join(clean(held.name) for held in running)
        length = None if wide else SHORT
        table.add_row(
            each.type.upper(),
            marked(each.status, each.status if each.age_s is None else f"{each.status} {age(each.age_s)}"),
            each.acked[:length] or "-",
            each.wanted[:length] or "-",
            "not known any more" if each.lost else f"{len(running)}: {names}" if running else "none",
        )
    return table


def _lost(node: str, each: TypeConfigView) -> str:
    return (
        f"{node} runs version {each.acked} of {NAMES.get(each.type, each.type)}, which is no longer stored: "
        "only its own /config_dump can say what that is"
    )


def _resources(each: TypeConfigView, config: ProxyConfigView) -> Table:
    running = [(held, held.resource) for held in each.resources if held.resource is not None]
    health = {row.cluster: f"{row.healthy}/{row.total}" for row in config.health}
    match each.type:
        case "lds":
            return _listeners(running)
        case "rds":
            return _routes(running)
        case "cds":
            return _clusters(running, health)
        case _:
            return _endpoints(running, health)


Running = Sequence[tuple[ResourceView, Mapping[str, Any]]]


def _state(held: ResourceView) -> Text:
    return marked(held.status, f"{held.status} {held.version[:SHORT]}")


def _listeners(running: Running) -> Table:
    table = new_table("LISTENER", "ADDRESS", "FILTERS", "ROUTES", "STATUS")
    for held, listener in running:
        filters = [each for chain in _list(listener, "filter_chains") for each in _list(chain, "filters")]
        configs = [_map(each, "typed_config") for each in filters] or [_map(listener, "api_listener", "api_listener")]
        routes = [str(_map(config, "rds").get("route_config_name", "inline")) for config in configs]
        table.add_row(
            clean(held.name),
            _address(listener) if "address" in listener else "API",
            clean(", ".join(str(each.get("name", "")).rpartition(".")[2] for each in filters)) or "-",
            clean(", ".join(routes)),
            _state(held),
        )
    return table


def _routes(running: Running) -> Table:
    table = new_table("ROUTES", "VIRTUAL HOST", "DOMAINS", "MATCH", "TIMEOUT", "TO", "STATUS")
    for held, config in running:
        for host in _list(config, "virtual_hosts"):
            for route in _list(host, "routes"):
                table.add_row(
                    clean(held.name),
                    clean(str(host.get("name", ""))),
                    clean(", ".join(map(str, host.get("domains", ())))),
                    clean(match_text(_map(route, "match"))),
                    str(_map(route, "route").get("timeout", "15s" if "route" in route else "-")),
                    clean(action_text(route)),
                    _state(held),
                )
    return table


def _clusters(running: Running, health: Mapping[str, str]) -> Table:
    table = new_table("CLUSTER", "TYPE", "LB", "CONNECT", "HEALTH CHECK", "HEALTHY", "STATUS")
    for held, cluster in running:
        checks = [check_text(check) for check in _list(cluster, "health_checks")]
        table.add_row(
            clean(held.name),
            str(cluster.get("type", "STATIC")),
            str(cluster.get("lb_policy", "ROUND_ROBIN")),
            str(cluster.get("connect_timeout", "5s")),
            clean("; ".join(checks)) or "-",
            health.get(held.name, "-"),
            _state(held),
        )
    return table


def _endpoints(running: Running, health: Mapping[str, str]) -> Table:
    table = new_table("CLUSTER", "ADDRESS", "WEIGHT", "HEALTHY", "STATUS")
    for held, assignment in running:
        members = [each for group in _list(assignment, "endpoints") for each in _list(group, "lb_endpoints")]
        for member in members or [{}]:
            table.add_row(
                clean(held.name),
                _address(_map(member, "endpoint")) if member else "none",
                str(member.get("load_balancing_weight", "-")),
                health.get(held.name, "-"),
                _state(held),
            )
    return table


def match_text(match: Mapping[str, Any]) -> str:
    """Write what a route matches: ``/repair*``, ``=/exact``, ``~ regex``, then its header rules."""
    words = []
    for key, form in (("prefix", "{}*"), ("path", "={}"), ("path_separated_prefix", "{}/*")):
        if key in match:
            words.append(form.format(match[key]))
    if "safe_regex" in match:
        words.append(f"~{_map(match, 'safe_regex').get('regex', '')}")
    words += [header_text(header) for header in _list(match, "headers")]
    words += [f"{key}: see -o yaml" for key in match if key not in _MATCHED]
    return " ".join(words) or "-"


_MATCHED: Final = frozenset({"prefix", "path", "path_separated_prefix", "safe_regex", "headers", "case_sensitive"})


def header_text(header: Mapping[str, Any]) -> str:
    """Write what a header must be: ``x-style=anime``, ``x-style~an.*``, ``x-style present``."""
    name, rule = header.get("name", ""), _map(header, "string_match")
    not_ = "not " if header.get("invert_match") else ""
    if "exact" in rule:
        return f"{not_}{name}={rule['exact']}"
    if "safe_regex" in rule:
        return f"{not_}{name}~{_map(rule, 'safe_regex').get('regex', '')}"
    if header.get("present_match"):
        return f"{not_}{name} present"
    return f"{not_}{name}: see -o yaml"


def action_text(route: Mapping[str, Any]) -> str:
    """Write where a route leads: clusters, with their share of the traffic in percent."""
    action = _map(route, "route")
    if "cluster" in action:
        return f"{action['cluster']} 100%"
    shares = _list(action, "weighted_clusters", "clusters")
    if shares:
        weights = [float(share.get("weight", 0)) for share in shares]
        total = sum(weights) or 1
        return ", ".join(
            f"{share.get('name', '')} {weight * 100 / total:g}%" for share, weight in zip(shares, weights, strict=True)
        )
    return ", ".join(f"{key}: see -o yaml" for key in route if key in _ACTIONS) or "-"


_ACTIONS: Final = frozenset({"route", "redirect", "direct_response", "filter_action", "non_forwarding_action"})


def check_text(check: Mapping[str, Any]) -> str:
    """Write a health check in a few words."""
    kind = next((key for key in check if key.endswith("health_check")), "health_check")
    what = f"GET {_map(check, kind).get('path', '/')}" if kind == "http_health_check" else kind
    return (
        f"{what} every {check.get('interval', '?')}, timeout {check.get('timeout', '?')}, "
        f"up after {check.get('healthy_threshold', '?')}, down after {check.get('unhealthy_threshold', '?')}"
    )


def _address(holder: Mapping[str, Any]) -> str:
    socket = _map(holder, "address", "socket_address")
    host = str(socket.get("address", "?"))
    return clean(f"[{host}]" if ":" in host else host) + f":{socket.get('port_value', '?')}"


def _map(value: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """Return the object at *path*, an empty one if there is none."""
    here: Any = value
    for part in path:
        here = here.get(part) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}


def _list(value: Mapping[str, Any], *path: str) -> list[Mapping[str, Any]]:
    """Return the objects of the list at *path*, none if there is none."""
    found = _map(value, *path[:-1]).get(path[-1])
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


# -- what it runs against what it should -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One resource that is not as it should be, or (without a *name*) a type of which nobody knows what is run."""

    type: str
    name: str
    runs: str
    wanted: str
    lines: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "type": self.type,
            "name": self.name,
            "version": self.runs,
            "wanted": self.wanted,
            "diff": "\n".join(self.lines),
        }


def differences(config: ProxyConfigView) -> list[Difference]:
    """Return how what an Envoy runs differs from what it should run, as unified diffs of YAML."""
    return [difference for each in config.types for difference in _differences(config.proxy.node, each)]


def _differences(node: str, each: TypeConfigView) -> Iterator[Difference]:
    if each.lost:
        if each.acked != each.wanted:
            yield Difference(each.type, "", each.acked, each.wanted, (_lost(node, each),))
        return
    for held in each.resources:
        if held.version != held.wanted:
            lines = difflib.unified_diff(
                _yaml_lines(held.resource if held.version else None),
                _yaml_lines(held.wanted_resource if held.wanted else None),
                f"{each.type}/{held.name} runs {held.version or 'nothing'}",
                f"{each.type}/{held.name} wanted {held.wanted or 'nothing'}",
                lineterm="",
            )
            yield Difference(each.type, held.name, held.version, held.wanted, tuple(lines))


def _yaml_lines(document: Mapping[str, Any] | None) -> list[str]:
    return [] if document is None else as_yaml(document).splitlines()


_STYLES: Final[Mapping[str, str]] = {"---": "bold", "+++": "bold", "@@": "cyan", "-": "red", "+": "green"}


def _diff(config: ProxyConfigView) -> RenderableType:
    lines: list[RenderableType] = [Page(*refusals(config.proxy.node, config.types))]
    found = differences(config)
    for difference in found:
        for line in difference.lines:
            style = next((style for start, style in _STYLES.items() if line.startswith(start)), "")
            # Not `clean`: the indentation is the meaning. YAML has escaped whatever could move the cursor.
            lines.append(Text("".join(char if char.isprintable() else " " for char in line), style=style))
    if not found and not any(each.wanted for each in config.types):
        lines.append(Text("there is nothing that it should run yet", style="dim"))
    return Group(*lines)
