"""Which model is served behind which path, from the cards that the flags name."""

from collections.abc import Callable

from inference_worker.backends import Device, Runner, open_transformer
from inference_worker.cards import ModelCard
from inference_worker.crafts import Colorizing, Transforming
from inference_worker.orders import COLORIZE_PATH, TRANSFORM_PATH
from inference_worker.service import Offer, Predictor
from inference_worker.sizing import LONGEST_TRANSFORM_PX, SizeRange


def offer_colorizer(
    card: ModelCard,
    load: Callable[[], Predictor],
    *,
    input_px: int | None = None,
    sizes: SizeRange | None = None,
    runner: Runner | None = None,
) -> dict[str, Offer]:
    """Serve a colorizer; *input_px* and *sizes* take the place of the card's own, and a *runner* that of *load*."""
    craft = Colorizing(
        model=card.name,
        input_px=input_px or card.input_px,
        sizes=sizes or card.sizes,
        is_square=card.is_square,
        is_fixed=card.is_fixed,
    )
    offer = Offer(craft=craft, load=load, version=card.version, is_grey_wanted=True, runner=runner)
    return {COLORIZE_PATH: offer}


def offer_transformer(card: ModelCard, *, threads: int, device: Device = Device.AUTO) -> dict[str, Offer]:
    """Serve an rgb-to-rgb model; no longer side than the card's own input, and never more than 1024."""
    craft = Transforming(model=card.name, longest_px=min(card.input_px, LONGEST_TRANSFORM_PX))

    def load() -> Predictor:
        return open_transformer(card, threads=threads, device=device)

    return {TRANSFORM_PATH: Offer(craft=craft, load=load, version=card.version, is_grey_wanted=False)}
