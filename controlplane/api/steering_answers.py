"""The shapes of what undo, freezes and the stop for everything answer."""

import datetime as dt

from controlplane.api.answering import View


class UndoneView(View):
    """What an undo became: the active *rollout* goes back (*command* is its number), or a rollout of its own does.

    *version* is the one that gets the traffic.
    """

    service: str
    rollout: str
    version: str
    command: int | None
    words: str


class FreezeView(View):
    """A freeze window; *service* is null where everything is frozen. *words* say all of it in a sentence."""

    service: str | None
    until: dt.datetime
    by: str
    why: str
    at: dt.datetime
    words: str


class StoppedView(View):
    """What stopping everything came to: rollouts that were told to abort, starts that will not begin.

    *left* are rollouts that give traffic back already, which goes on.
    """

    rollouts: list[str]
    cancelled: list[str]
    left: list[str]
    words: str
