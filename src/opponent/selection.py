"""Which images: exciting, inhibiting, silent, tense, tense apart, tense together, or your own.

A selection is a named function of a scan's columns. It returns indices, the most telling first;
equal images stay in their order. Fewer than k come back where fewer qualify.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Num

from opponent.core.colour import group_colours
from opponent.core.feature import Feature
from opponent.core.plugins import load_object, names_object
from opponent.storage.columns import Columns, Indices
from opponent.storage.run import Run

# Tense images keep to -0.5 sd < f < 0. Source: paper, section 4 (whose print lost the minus sign).
BAND = 0.5
# Source: paper, section 3, figures 4e and 4f.
LOW, HIGH = 1.0, 99.0


def top(
    values: Num[np.ndarray, " n"], k: int, where: Bool[np.ndarray, " n"] | None = None
) -> Indices:
    """The indices of the k largest values, largest first, among those that qualify.

    Args:
        values: what is compared.
        k: how many at most.
        where: which qualify; None is all.
    """
    order: Indices = np.argsort(-values, kind="stable")
    chosen = order if where is None else order[where[order]]
    return chosen[:k]


def exciting(columns: Columns, k: int) -> Indices:
    """The images with the largest activation (MEIs). Source: paper, section 1."""
    return top(columns.activation, k)


def inhibiting(columns: Columns, k: int) -> Indices:
    """The images with the smallest activation (MIIs). Source: paper, section 1."""
    return top(-columns.activation, k)


def silent(columns: Columns, k: int) -> Indices:
    """The images that neither excite nor inhibit: smallest L1 norms. Source: paper, figure 4d."""
    return top(-columns.l1, k)


def in_balance(columns: Columns) -> Bool[np.ndarray, " n"]:
    """Which images excite and inhibit about alike, with inhibition ahead: -0.5 sd(f) < f < 0."""
    # In double precision: the squares of large values would not fit in single.
    f = columns.activation.astype(np.float64)
    if columns.kept is not None:
        deviation = columns.kept.deviation
    else:
        deviation = float(f.std()) if f.size else 0.0
    return np.logical_and(-BAND * deviation < f, f < 0)


def tense(columns: Columns, k: int) -> Indices:
    """The images in balance with the largest L1 norm (MTIs). Source: paper, section 4.

    Of the images that a scan of all units keeps, only those that are surely the tensest of all: no
    image that was not kept has a larger norm.
    """
    where = in_balance(columns)
    if columns.kept is not None and columns.kept.keep < len(columns) < columns.kept.images:
        where &= columns.l1 >= np.sort(columns.l1)[-columns.kept.keep]
    return top(columns.l1, k, where)


def tense_apart(columns: Columns, k: int) -> Indices:
    """Images with excitation in one place and inhibition in another, largest tension first.

    phi+ - phi- of the image holds a value under the 1st and one over the 99th percentile of all
    images' values. Source: paper, section 3, figure 4e; it leaves the order open.
    """
    _check_whole(columns, "tense_apart")
    difference = columns.excitation_map - columns.inhibition_map
    if not difference.size:
        return np.empty(0, dtype=np.intp)
    low, high = np.percentile(difference, [LOW, HIGH])
    both = (difference < low).any((1, 2)) & (difference > high).any((1, 2))
    return top(columns.tension, k, both)


def tense_together(columns: Columns, k: int) -> Indices:
    """Images with excitation and inhibition in one and the same place, largest tension first.

    phi+ and phi- are both over their 99th percentile at one position. Source: paper, section 3,
    figure 4f; it leaves the order open.
    """
    _check_whole(columns, "tense_together")
    plus, minus = columns.excitation_map, columns.inhibition_map
    if not plus.size:
        return np.empty(0, dtype=np.intp)
    both = (plus > np.percentile(plus, HIGH)) & (minus > np.percentile(minus, HIGH))
    return top(columns.tension, k, both.any((1, 2)))


def _check_whole(columns: Columns, name: str) -> None:
    if columns.kept is not None:
        raise ValueError(
            f"{name} compares with the maps of all images, and these are {columns.scope} by a scan "
            f"of all units; it gives {', '.join(OF_KEPT)}; scan the unit by itself for {name}"
        )


@dataclass(frozen=True)
class Selection:
    """A way to choose images of a feature.

    Args:
        name: its name in tables, figures and pages.
        meaning: what these images have in common, in a few words.
        rule: from the feature's columns and a number k, the indices of at most k images, the most
            telling first.
        colour: its colour as '#rrggbb' in figures and pages; default: one is chosen.

    >>> import numpy as np, opponent
    >>> strongest = opponent.Selection(
    ...     "strongest", "largest L2 norm of S", lambda columns, k: np.argsort(-columns.l2)[:k])
    >>> values, maps = np.array([1.0, 3.0]), np.zeros((2, 1, 1))
    >>> columns = opponent.Columns(
    ...     images=("a.jpg", "b.jpg"), activation=values, excitation=values, inhibition=values,
    ...     l1=values, l2=values, excitation_map=maps, inhibition_map=maps)
    >>> opponent.select(columns, k=1, selections=[strongest, "exciting"])
    {'strongest': Selected('strongest': 1 image), 'exciting': Selected('exciting': 1 image)}
    """

    name: str
    meaning: str
    rule: Callable[[Columns, int], Indices]
    colour: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Selected:
    """The images that a selection chose.

    Args:
        selection: the selection; its colour is never empty here.
        rows: their indices in the columns, the most telling first.
        images: their ids, in the same order.

    >>> import numpy as np, opponent
    >>> values, maps = np.array([1.0, 3.0]), np.zeros((2, 1, 1))
    >>> columns = opponent.Columns(
    ...     images=("a.jpg", "b.jpg"), activation=values, excitation=values, inhibition=values,
    ...     l1=values, l2=values, excitation_map=maps, inhibition_map=maps)
    >>> selected = opponent.select(columns, k=1, selections=["exciting"])["exciting"]
    >>> selected.rows, selected.images
    (array([1]), ('b.jpg',))
    """

    selection: Selection
    rows: Indices
    images: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __repr__(self) -> str:
        count = len(self)
        return f"Selected({self.selection.name!r}: {count} image{'' if count == 1 else 's'})"


SELECTIONS = {
    selection.name: selection
    for selection in (
        Selection("exciting", "largest activation", exciting),
        Selection("inhibiting", "smallest activation", inhibiting),
        Selection("silent", "next to nothing drives it", silent),
        Selection("tense", "both sides large, activation just below zero", tense),
        Selection("tense_apart", "excited and inhibited in different places", tense_apart),
        Selection("tense_together", "excited and inhibited in one place", tense_together),
    )
}
"""The built-in selections by name. Source: paper, section 3, figure 4."""
OF_KEPT = ("exciting", "inhibiting", "silent", "tense")
"""Those that the images tell which a scan of all units keeps of a unit."""


def parse_selection(text: Selection | str) -> Selection:
    """A selection by its name, or 'module:PACKAGE.MODULE:NAME' for one of the user's own.

    Args:
        text: a selection, which is returned as it is, or its name.
    Raises:
        ValueError: there is no such selection.
    """
    if isinstance(text, Selection):
        return text
    if names_object(text):
        loaded = load_object(text)
        if not isinstance(loaded, Selection):
            raise ValueError(f"{text!r} is no opponent.Selection but {type(loaded).__name__}")
        return loaded
    if text not in SELECTIONS:
        raise ValueError(f"there is no group {text!r}; there are {', '.join(SELECTIONS)}")
    return SELECTIONS[text]


def select(
    source: Run | Columns,
    k: int = 10,
    *,
    feature: Feature | str | None = None,
    selections: Sequence[Selection | str] | None = None,
) -> dict[str, Selected]:
    """Choose images of a feature, k for each selection.

    Args:
        source: a finished run, or columns that were read from one.
        k: images a selection, at least 1.
        feature: one of the run's features; default: the only one. Columns are of one feature
            already.
        selections: which ones, by name or as objects; default: the built-in six, 'exciting',
            'inhibiting', 'silent', 'tense', 'tense_apart' and 'tense_together'. Of the images that
            a scan of all units keeps, the first four, and only images that belong there among all.
    Returns:
        What each selection chose, by its name; fewer than k images where fewer qualify.
    Raises:
        ValueError: no such selection or feature, two selections of one name, k under 1, or a
            selection of the user's own that chose what is not there.
        RunError: the run is unfinished.
    Source: paper, sections 1, 3 and 4.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     opponent.select(run, k=2)["exciting"]
    Selected('exciting': 2 images)
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1 image a selection")
    columns = source.columns(feature) if isinstance(source, Run) else source
    default: Sequence[str] = list(SELECTIONS)
    if columns.kept is not None:
        default, k = OF_KEPT, min(k, columns.kept.keep)
    chosen = [parse_selection(each) for each in (default if selections is None else selections)]
    names = [selection.name for selection in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"two selections have one name among {', '.join(names)}")
    colours = group_colours(names)
    return {
        selection.name: _apply(
            replace(selection, colour=selection.colour or colours[selection.name]), columns, k
        )
        for selection in chosen
    }


def _apply(selection: Selection, columns: Columns, k: int) -> Selected:
    """What a selection chooses, checked: it may be the user's own."""
    rows, count = np.asarray(selection.rule(columns, k)), len(columns.images)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(f"selection {selection.name!r} must return a vector of indices")
    rows = rows.astype(np.intp)
    if len(rows) > k or len(set(rows.tolist())) < len(rows):
        raise ValueError(
            f"selection {selection.name!r} must return at most {k} images, each of them once"
        )
    if rows.size and (rows.min() < 0 or rows.max() >= count):
        raise ValueError(
            f"selection {selection.name!r} names image {rows[(rows < 0) | (rows >= count)][0]}, "
            f"but there are images 0 to {count - 1}"
        )
    return Selected(selection, rows, tuple(columns.images[row] for row in rows.tolist()))


def percentile_of(values: Num[np.ndarray, " n"], value: float) -> float:
    """The share of values below a value, ties counted half, in percent."""
    return 100 * float(np.mean(values < value) + np.mean(values == value) / 2)
