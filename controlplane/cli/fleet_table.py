"""The fleet as `hueshift proxies` shows it: a row per Envoy, a column per type; folded where there is no room for that.

Like `istioctl proxy-status`, with NACKED as a state of its own, an age at every state, and Envoy's own words below.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from controlplane.api.fleet_answers import ProxyView, TypeView
from controlplane.cli.layout import GAP, Page, Paragraph, columns
from controlplane.cli.output import advice_words, age, clean, marked
from controlplane.codes import by_slug

ORDER: Final = ("cds", "lds", "eds", "rds")
"""The types that every Envoy has, in the order in which it gets them; further ones come behind."""
WORST_FIRST: Final = ("NACKED", "STALE", "NOT SENT", "SYNCED")
SHORT: Final = 8
"""Characters of a version that people need to tell it from another."""
MIN_NAME: Final = 16
"""Columns that a node's id needs at least, folded, for the types to stand in one row with it."""


def fleet_page(proxies: Sequence[ProxyView], *, wide: bool = False) -> Page:
    """Show Envoys, below them what those say that refused something, and how many are how."""
    words = [paragraph for proxy in proxies for paragraph in all_refusals(proxy.node, proxy.types)]
    gap = [Text()] if words else []
    return Page(_Fleet(proxies, wide=wide), *gap, *words, Text(), Paragraph(_sum(proxies)))


def refusals(node: str, types: Sequence[TypeView]) -> Iterator[Paragraph]:
    """Yield what an Envoy says of what it refuses now, with the command that shows it."""
    code = by_slug("envoy_refuses")
    for kind in types:
        if kind.status == "NACKED":
            said = f"refused {kind.type.upper()} {kind.sent}: {kind.words}"
            yield Paragraph(advice_words(code, node, said, code.run.format(subject=node, service="")))


def all_refusals(node: str, types: Sequence[TypeView]) -> Iterator[Paragraph]:
    """Yield what an Envoy says of what it refuses, then of what it once did and is back in step since."""
    yield from refusals(node, types)
    for kind in types:
        past = kind.last_refusal
        if past is not None and kind.status != "NACKED":
            said = f"{node} refused {kind.type.upper()} {past.version} {age(past.age_s)} ago: {past.words}"
            yield Paragraph(Text(clean(said), style="dim"))


def connection_text(proxy: ProxyView) -> Text:
    """Say for how long an Envoy has been connected, or gone."""
    if proxy.connected:
        return Text(f"yes, {age(proxy.age_s)}")
    return Text(f"left {age(proxy.age_s)}", style="red")


class _Fleet:
    """Envoys in columns where those have room, else each with its types below it."""

    def __init__(self, proxies: Sequence[ProxyView], *, wide: bool) -> None:
        self._proxies = proxies
        self._wide = wide
        found = {kind.type for proxy in proxies for kind in proxy.types}
        self._kinds = [*(kind for kind in ORDER if kind in found), *sorted(found - set(ORDER))]

    def lines(self, width: int) -> Iterator[Text]:
        more = ("CLUSTER", "USER AGENT", "VARIANT") if self._wide else ()
        heads = ("NODE", "GROUP", "CONNECTED", *(kind.upper() for kind in self._kinds), "REPLICA", *more)
        rows = [self._row(proxy) for proxy in self._proxies]
        widths = [max(cell_len(text.plain) for text in column) for column in zip(*rows, _texts(heads), strict=True)]
        room = width - sum(widths[1:]) - len(GAP) * (len(widths) - 1)
        if room >= min(widths[0], MIN_NAME):
            widths[0] = min(widths[0], room)
            yield from columns([Text(head, style="bold") for head in heads], rows, widths)
            return
        yield from self._folded(width)

    def _folded(self, width: int) -> Iterator[Text]:
        """Show each Envoy with its types on lines of their own."""
        own = [[*self._own(proxy)] for proxy in self._proxies]
        heads = ("NODE", "GROUP", "CONNECTED", "REPLICA")
        widths = [max(cell_len(text.plain) for text in column) for column in zip(*own, _texts(heads), strict=True)]
        widths[0] = max(min(widths[0], width - sum(widths[1:]) - len(GAP) * (len(widths) - 1)), len(heads[0]))
        table = columns([Text(head, style="bold") for head in heads], [[]], widths)
        yield next(table)
        for row, proxy in zip(own, self._proxies, strict=True):
            lines = columns([Text()] * len(widths), [row], widths)
            next(lines)
            yield from lines
            yield from _filled(self._states(proxy), width)

    def _row(self, proxy: ProxyView) -> list[Text]:
        name, group, connected, replica = self._own(proxy)
        more = (Text(clean(proxy.cluster)), Text(clean(proxy.user_agent) or "-"), Text(proxy.variant))
        states = [text for _, text in self._states(proxy)]
        return [name, group, connected, *states, replica, *(more if self._wide else ())]

    def _own(self, proxy: ProxyView) -> tuple[Text, Text, Text, Text]:
        return (
            Text(clean(proxy.node)),
            Text(clean(proxy.group) or "-"),
            connection_text(proxy),
            Text(clean(proxy.replica)),
        )

    def _states(self, proxy: ProxyView) -> list[tuple[str, Text]]:
        known: Mapping[str, TypeView] = {kind.type: kind for kind in proxy.types}
        return [(kind.upper(), _state_text(known.get(kind), wide=self._wide)) for kind in self._kinds]


def _texts(heads: Sequence[str]) -> list[Text]:
    return [Text(head) for head in heads]


def _state_text(kind: TypeView | None, *, wide: bool) -> Text:
    if kind is None:
        return marked("NOT SENT")
    words = [kind.status]
    if kind.age_s is not None:
        words.append(age(kind.age_s))
    if wide and kind.acked:
        same = kind.acked == kind.wanted or not kind.wanted
        words.append(kind.acked if same else f"{kind.acked} → {kind.wanted}")
    return marked(kind.status, " ".join(words))


def _filled(states: Sequence[tuple[str, Text]], width: int) -> Iterator[Text]:
    """Put types beside each other as far as a line goes."""
    line = Text()
    for kind, state in states:
        part = Text(f"{kind} ") + state
        if line and cell_len(line.plain) + cell_len(part.plain) + len(GAP) > width:
            yield line
            line = Text()
        line = (line + Text(GAP) if line else Text(GAP)) + part
    yield line


def _sum(proxies: Sequence[ProxyView]) -> Text:
    connected = [proxy for proxy in proxies if proxy.connected]
    states = collections.Counter(_worst(proxy) for proxy in connected)
    counted = ", ".join(f"{states[state]} {state}" for state in WORST_FIRST if states[state])
    text = f"{len(connected)} connected{f': {counted}' if counted else ''}"
    gone = len(proxies) - len(connected)
    return Text(f"{text}; {gone} not connected" if gone else text)


def _worst(proxy: ProxyView) -> str:
    found = {kind.status for kind in proxy.types if kind.sent or kind.wanted}
    return next((state for state in WORST_FIRST if state in found), "NOT SENT")
