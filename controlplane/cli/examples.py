"""Examples for the help of every command: each is a line that can be typed as it stands."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

EXAMPLES: Final[Mapping[str, Sequence[str]]] = {
    "apply": ["hueshift apply -f deploy/colorize.yaml --reason 'two more workers'"],
    "diff": ["hueshift diff -f deploy/shop.yaml", "hueshift diff -f deploy/shop.yaml --prune --owner photos"],
    "delete": ["hueshift delete colorize --yes --reason 'moved'"],
    "schema": ["hueshift schema service", "hueshift schema"],
    "report": ["hueshift report colorize", "hueshift report colorize-7 -o json"],
    "lint": ["hueshift lint -f deploy/colorize.yaml", "hueshift lint -f one.yaml -f two.yaml -o json"],
    "list": ["hueshift list", "hueshift list -o json"],
    "get": ["hueshift get colorize", "hueshift get colorize -w", "hueshift get colorize -o yaml"],
    "start": [
        "hueshift start colorize --to v2 --reason 'better blues'",
        "hueshift start colorize --to v2 --steps 1,10,50,100 --hold 2m",
    ],
    "status": ["hueshift status colorize --timeout 30m", "hueshift status colorize --timeout 0 -o json"],
    "pause": ["hueshift pause colorize --reason 'lunch'"],
    "resume": ["hueshift resume colorize"],
    "promote": ["hueshift promote colorize --reason 'pictures looked at'", "hueshift promote colorize --full"],
    "abort": ["hueshift abort colorize --reason 'grey faces'"],
    "set-weight": ["hueshift set-weight colorize v1=90% v2=10% --reason 'by hand, for the demo'"],
    "history": ["hueshift history colorize --limit 20", "hueshift history colorize --rollout colorize-7 -o json"],
    "events": [
        "hueshift events -n 50",
        "hueshift events --service colorize --types rollout,nack -f",
        "hueshift events -f -o json",
    ],
    "explain": ["hueshift explain colorize"],
    "replay": ["hueshift replay colorize-7", "hueshift replay colorize --slo stricter.yaml --all"],
    "proxies": ["hueshift proxies", "hueshift proxies --state nacked -o wide", "hueshift proxies --check"],
    "proxy": ["hueshift proxy edge-1", "hueshift proxy edge-1 routes -o yaml", "hueshift proxy edge-1 diff"],
    "serve": ["hueshift serve", "hueshift serve --role xds --database-url postgresql://db.internal/hueshift"],
    "bootstrap": ["hueshift bootstrap --node-id edge-1 --xds-host control.internal"],
    "envoy": ["hueshift envoy --node-id edge-1"],
    "demo": ["hueshift demo --json results.json"],
    "soak": ["hueshift soak --kills 20", "hueshift soak --jobs 1000 --workers-away 30"],
    "simulate": [
        "hueshift simulate --scenarios tests/data/judge_scenarios.json --replications 200 --json results.json"
    ],
    "plan": ["hueshift plan colorize", "hueshift plan colorize --rate 20 --errors 0.1% --p50 120ms --p95 400ms"],
    "batch": ["hueshift batch photos --out coloured --recursive"],
    "codes": ["hueshift codes HS0107", "hueshift codes"],
    "openapi": ["hueshift openapi", "hueshift openapi --markdown"],
    "completion": ["hueshift completion bash"],
    "db upgrade": ["hueshift db upgrade"],
    "db current": ["hueshift db current"],
    "bench rollback": ["hueshift bench rollback --runs 3"],
    "bench flips": ["hueshift bench flips --flips 50 --rate 200"],
    "bench envoys": ["hueshift bench envoys --count 20 --changes 50"],
    "bench fanout": ["hueshift bench fanout --streams 1000 --changes 10"],
    "bench storm": ["hueshift bench storm --streams 1000 --rounds 2"],
    "bench overload": ["hueshift bench overload --seconds 30"],
    "bench events": ["hueshift bench events --seconds 10"],
    "bench jobs": ["hueshift bench jobs --jobs 1000"],
    "quality compare": ["hueshift quality compare v1 v2 --service colorize --strata person,building"],
    "quality show": ["hueshift quality show colorize --out var/pictures"],
    "jobs submit": ["hueshift jobs submit photo.jpg --workflow colorize --size 512"],
    "jobs list": ["hueshift jobs list --state waiting"],
    "jobs get": ["hueshift jobs get 01JDYX4QZ6"],
    "jobs result": ["hueshift jobs result 01JDYX4QZ6 --out coloured.jpg"],
    "jobs cancel": ["hueshift jobs cancel 01JDYX4QZ6"],
    "jobs delete": ["hueshift jobs delete 01JDYX4QZ6 --yes"],
    "jobs show": ["hueshift jobs show 01JDYX4QZ6"],
    "jobs retry": ["hueshift jobs retry 01JDYX4QZ6", "hueshift jobs retry --state dead --since 2h"],
    "jobs dead-letters": ["hueshift jobs dead-letters --since 24h"],
    "jobs queues": ["hueshift jobs queues"],
    "jobs figures": ["hueshift jobs figures --since 1h"],
    "jobs drain": ["hueshift jobs drain --reason 'new disks'", "hueshift jobs drain --off"],
    "jobs kinds": ["hueshift jobs kinds"],
    "jobs kinds apply": ["hueshift jobs kinds apply -f deploy/kinds.yaml"],
    "jobs owners": ["hueshift jobs owners"],
    "jobs owners apply": ["hueshift jobs owners apply -f owners.yaml"],
    "jobs owners show": ["hueshift jobs owners show web-shop"],
    "jobs owners delete": ["hueshift jobs owners delete web-shop --yes"],
    "notify list": ["hueshift notify list", "hueshift notify list -o json"],
    "notify set": [
        "hueshift notify set colorize team 'slack://TOKENA/TOKENB/TOKENC/#releases' --kind gate --kind rolled_back",
        "hueshift notify set '*' ci https://ci.example.org/hueshift --no-links",
        "hueshift notify set colorize gate",
    ],
    "notify remove": ["hueshift notify remove colorize team --yes"],
    "notify secret": ["hueshift notify secret colorize ci"],
    "notify test": ["hueshift notify test colorize team"],
    "notify deliveries": ["hueshift notify deliveries colorize team --limit 20"],
    "notify replay": ["hueshift notify replay colorize team 17"],
    "jobs callbacks": ["hueshift jobs callbacks"],
    "jobs callbacks apply": ["hueshift jobs callbacks apply -f callbacks.yaml"],
    "jobs callbacks secret": ["hueshift jobs callbacks secret shop"],
    "jobs callbacks test": ["hueshift jobs callbacks test shop"],
    "jobs callbacks delete": ["hueshift jobs callbacks delete shop --yes"],
}


_OWN: Final = re.compile(r"\s*\bExample: (hueshift [^\0]*)\Z")


def commands(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command that can be run, with its name as it is typed behind `hueshift`; hidden ones left out."""
    yield from _below(root, ())


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if command.hidden:
        return
    below = getattr(command, "commands", None)
    if path and (below is None or command.invoke_without_command):
        yield " ".join(path), command
    for name, each in (below or {}).items():
        yield from _below(each, (*path, name))


def add_examples(root: Any) -> Any:
    """Put examples at the end of the help of every command of *root*, and return it.

    They come from `EXAMPLES`, and from the end of a command's own help, where it says ``Example: hueshift ...``.
    """
    for name, command in commands(root):
        text, examples = _split(command.help or "")
        examples += [each for each in EXAMPLES.get(name, ()) if each not in examples]
        if examples:
            command.help, command.epilog = text, epilog(*examples)
    return root


def _split(text: str) -> tuple[str, list[str]]:
    """Return a help text without the example at its end, and that."""
    found = _OWN.search(text)
    return (text[: found.start()].rstrip(), [" ".join(found[1].split())]) if found else (text, [])


def epilog(*examples: str) -> str:
    """Write examples as the end of a help text, each on its line."""
    return "\n".join(["\b", "Examples:" if len(examples) > 1 else "Example:", *(f"  {each}" for each in examples)])
