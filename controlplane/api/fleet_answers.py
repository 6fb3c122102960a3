"""What the REST API answers about Envoys: what each was sent, acknowledged, refused and runs."""

import datetime as dt
from typing import Any

from controlplane.api.answering import View


class RefusalView(View):
    """What an Envoy refused last on its present stream, in its own words, and how long ago."""

    version: str
    words: str
    age_s: float


class TypeView(View):
    """One resource type at one Envoy. *age_s* is how long it has been like this; versions are content hashes.

    *words* are the Envoy's own, when it refused what it was *sent*; it still runs what it *acked*. *last_refusal* stays
    when it is back in step.
    """

    type: str
    status: str
    age_s: float | None
    sent: str
    acked: str
    wanted: str
    words: str
    last_refusal: RefusalView | None = None


class ProxyView(View):
    """One Envoy as one replica of the control plane sees it. *since* is when it came, or (not connected) when it left.

    *synced* says whether it runs all that it should. *group* is the one that it says it belongs to, *served_group* the
    one whose configuration it gets: "" is for the Envoys whose group no service names, None before there is any.
    """

    node: str
    cluster: str
    group: str
    served_group: str | None
    user_agent: str
    replica: str
    variant: str
    connected: bool
    since: dt.datetime
    age_s: float
    synced: bool
    types: list[TypeView]


class ResourceView(View):
    """One resource at one Envoy: the *version* that it runs ("" for none), and the one that it should run.

    *resource* is what it runs, as Envoy's own config_dump writes it; *wanted_resource* is what it should run, where
    that is something else. Private content (keys) is left out.
    """

    name: str
    status: str
    version: str
    wanted: str
    resource: dict[str, Any] | None
    wanted_resource: dict[str, Any] | None


class TypeConfigView(TypeView):
    """The resources of one type. *lost*: what the Envoy runs is no longer stored, so nobody here can say what it is."""

    lost: bool
    resources: list[ResourceView]


class HealthView(View):
    """How many workers of a cluster an Envoy finds healthy."""

    cluster: str
    healthy: int
    total: int


class ProxyConfigView(View):
    """What one Envoy runs, resource by resource."""

    proxy: ProxyView
    types: list[TypeConfigView]
    health: list[HealthView]
