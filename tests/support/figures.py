"""What tests of figures share: pictures to draw, and what is read off a figure."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from opponent.explain.crops import Synthetic, Tile
from opponent.explain.drivers import Driver, Drivers
from opponent.plots import (
    ExemplarRow,
    TracePanel,
    WeightPanel,
    activation_trace_figure,
    energies_figure,
    objective_figure,
    weights_figure,
)

LONG = "features.7.expand3x3 of a network whose layers have names without any end: 1,024 $5 to $6"


def tile(seed: int = 0, h: int = 12, w: int = 12, *, size: float = 1.0, caption: str = "") -> Tile:
    rng = np.random.default_rng(seed)
    return Tile(
        image=rng.integers(0, 256, (h, w, 3), dtype=np.uint8),
        excitation=size * rng.uniform(0, 1, (h, w)),
        inhibition=size * rng.uniform(0, 1, (h, w)),
        caption=caption,
    )


def plain(seed: int = 0) -> Tile:
    return replace(tile(seed), excitation=None, inhibition=None)


def mapped(excitation: Any, inhibition: Any) -> Tile:
    return Tile(
        image=np.zeros((*excitation.shape, 3), np.uint8),
        excitation=excitation,
        inhibition=inhibition,
    )


def synthetic(seed: int = 0, *, floats: bool = True, h: int = 9, w: int = 9) -> Synthetic:
    image = np.random.default_rng(seed).uniform(0, 1, (h, w, 4))
    if floats:
        return Synthetic(image=image, caption="+7.5 sd")
    return Synthetic(image=np.rint(255 * image).astype(np.uint8), caption="+7.5 sd")


def driver(name: str, excitation: float, inhibition: float = 0.0, **more: Any) -> Driver:
    return Driver(channel=1, name=name, excitation=excitation, inhibition=inhibition, **more)


def drivers(exciting: list[Driver], inhibiting: list[Driver], within: float = 0.5) -> Drivers:
    """These channels, and others that add as much to either side together."""
    whole = (sum(x.excitation for x in exciting), sum(x.inhibition for x in inhibiting))
    return Drivers(
        excitation=np.full(2, whole[0], np.float64),
        inhibition=np.full(2, whole[1], np.float64),
        exciting=tuple(exciting),
        inhibiting=tuple(inhibiting),
        tension_within=within if all(whole) else None,
    )


def random_energies(n: int, seed: int = 0, size: float = 1.0) -> tuple[Any, Any, Any]:
    excitation, inhibition = size * np.random.default_rng(seed).gamma(2, 1, (2, n))
    return excitation, inhibition, excitation - inhibition


def pictures(figure: Figure) -> list[UInt8[np.ndarray, "h w 3"]]:
    """All images of a figure, in the order they were drawn."""
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.get_images()]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def rc_settings() -> dict[str, Any]:
    # To ask for the backend would choose one.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def axis_texts(axes: Axes) -> list[Text]:
    """The names of both axes and the labels of the ticks that are drawn."""
    texts = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        texts += [axis.label, *(t for tick in ticks for t in (tick.label1, tick.label2))]
    return [text for text in texts if text.get_visible()]


def check_texts(figure: Figure) -> None:
    """All text lies on the paper, and not on other text."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Names and numbers of the figure; the labels of slanted lines only have to be on the paper.
    upright = [*figure.texts, *(text for axes in figure.axes for text in axis_texts(axes))]
    slanted = [text for axes in figure.axes for text in axes.texts]
    boxes = {
        text: text.get_window_extent(canvas.get_renderer())
        for text in (*upright, *slanted)
        if text.get_text().strip()
    }
    for text, box in boxes.items():
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for one, other in combinations([text for text in upright if text in boxes], 2):
        a, b = boxes[one], boxes[other]
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        up = min(a.y1, b.y1) - max(a.y0, b.y0)
        # Boxes hold room for accents and tails, which may touch.
        assert min(across, up) <= 2, (one, other)


def check_axes(figure: Figure) -> None:
    """All axes lie on the paper, and not on each other."""
    across, down = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes]
    for box in boxes:
        assert min(box.x0, box.y0, 1 - box.x1, 1 - box.y1) > 0
    for a, b in combinations(boxes, 2):
        overlap = min(
            (min(a.x1, b.x1) - max(a.x0, b.x0)) * across,
            (min(a.y1, b.y1) - max(a.y0, b.y0)) * down,
        )
        assert overlap <= 1e-9


def exemplar_row(k: int, n: int, m: int, **kwargs: Any) -> ExemplarRow:
    return ExemplarRow(
        label=LONG,
        exciting=[tile(k + j, 9, 14, caption="+3.1") for j in range(n)],
        inhibiting=[tile(k + j, caption="a longer caption") for j in range(m)],
        **kwargs,
    )


def energies_drawn(n: int, size: float = 1.0, **kwargs: Any) -> Figure:
    return energies_figure(*random_energies(n, size=size), label=LONG, through=LONG, **kwargs)


def trace(n: int, steps: int, panels: int = 1) -> Figure:
    rows = np.random.default_rng(0).normal(0, 2, (n, steps))
    own = np.linspace(-0.5, 0, n)
    panel = TracePanel(label=LONG, excitatory=3 + rows, inhibitory=rows - 3, own=own, notes=[LONG])
    return activation_trace_figure(np.arange(steps), [panel] * panels)


def weights_panel(layers: int = 3, *, untrained: bool = False) -> WeightPanel:
    rng = np.random.default_rng(0)
    return WeightPanel(
        label=LONG,
        histogram=rng.integers(0, 9, 10),
        share=0.503 if layers else np.nan,
        interval=(0.47, 0.55) if layers > 1 else None,
        layer_shares=rng.uniform(0.3, 0.8, layers),
        layer_sizes=rng.integers(1, 10**7, layers),
        untrained=untrained,
    )


def weights(networks: int, layers: int) -> Figure:
    panels = [weights_panel(layers, untrained=number == 1) for number in range(networks)]
    return weights_figure(panels, np.linspace(-4, 4, 9))


def objective() -> Figure:
    names = ("dot", "cosine", "dot × cosine", "dot × cosine²")
    plane = np.subtract.outer(np.arange(9.0), np.arange(9.0))
    return objective_figure(dict.fromkeys(names, plane), 2.0, clamp=0.1)
