"""Why one photograph does, or does not, make a feature fire."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from torch import nn

from opponent.attribution.attribute import attribute
from opponent.attribution.result import Attribution
from opponent.attribution.rules import AttributionRule, parse_rule
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.dictionaries.dictionary import Dictionary
from opponent.explain.comparison import answer_of, meaning_of, rival_of, standing_in
from opponent.explain.contrast import Rival, difference, named, rival_feature
from opponent.explain.crops import Tile, crop_tile, overlay_scale, photograph, zoom_for
from opponent.explain.drivers import Drivers, rank_channels
from opponent.explain.places import crop_drivers, name_place
from opponent.geometry.receptive_field import placement, receptive_field
from opponent.images.imageset import ImageEntry
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.scan.reopen import baseline_of, check_network, dictionary_of, rule_of
from opponent.storage.run import Run

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, repr=False)
class Why:
    """What drove a feature in one photograph, what held it back, where, and through which channels.

    Args:
        network: the network's name.
        image: the image's id.
        feature: the feature, with its position written out.
        against: the feature that it is compared with, if it is; all numbers and maps but those of
            `answer` are then those of the difference of the two activations. Excitation speaks for
            the first feature, inhibition for the second.
        through: the layer that it is explained through.
        meaning: what the feature stands for, where that is known: a logit's class.
        activation, excitation, inhibition: of the feature; activation is before the ReLU.
        drivers: the upstream channels that add most to either side, with what they cover of it.
        places: for excitation and inhibition, the part of the picture that holds most of it, with
            its share; None where nothing does, or where the layer has no places.
        answer: the network's first answer (name, logit), where it is a classifier and a logit was
            asked for, and the asked logit's rank, from 1.
        standing: given a run, the percentiles of this image among its images; of a comparison only
            that of the difference.
        tile: the photograph with both maps.
        apart: where S is of a dictionary's latents, what its bias and its rest add, by name.
        dictionary: which one, in words.
    Source: paper, section 3, for one image and by channel.

    >>> import numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> answer = opponent.why("inceptionv1-small", Noise(), "mixed3b:189", "mixed3a")
    >>> answer.title, answer.facts()[3]
    ('mixed3b:189@7,7', ('through', 'mixed3a'))
    >>> abs(answer.excitation - answer.inhibition - answer.activation) < 1e-4
    True
    >>> bool(answer.drivers.exciting[0].excitation == answer.drivers.excitation.max())
    True
    """

    network: str
    image: str
    feature: Feature
    meaning: str | None
    through: str
    activation: float
    excitation: float
    inhibition: float
    drivers: Drivers
    places: tuple[tuple[str, float] | None, tuple[str, float] | None]
    answer: tuple[str, float, int] | None
    standing: dict[str, float] | None
    tile: Tile
    against: Rival | None = None
    apart: dict[str, float] | None = None
    dictionary: str | None = None

    @property
    def title(self) -> str:
        """The feature's label and, where known, its meaning; of both, where two are compared."""
        return " rather than ".join(self.titles)

    @property
    def titles(self) -> tuple[str, ...]:
        """Label and meaning of the feature, and of the one that it is compared with, if any."""
        own = named(self.feature, self.meaning)
        return (own,) if self.against is None else (own, self.against.title)

    @property
    def side_names(self) -> tuple[str, str]:
        """What a channel of either side does: 'excites' and 'inhibits', or for which it speaks."""
        if self.against is None:
            return "excites", "inhibits"
        return f"for {self.feature.label}", f"for {self.against.feature.label}"

    @property
    def question(self) -> str:
        """What is answered."""
        if self.against is not None:
            return f"Why {'not ' if self.activation < 0 else ''}{self.title}?"
        if self.answer is not None:
            return f"Why is {self.title} {'' if self.answer[2] == 1 else 'not '}the answer?"
        return f"Why does {self.title} {'' if self.activation > 0 else 'not '}fire?"

    @property
    def verdict(self) -> str:
        """The answer in a sentence."""
        state, plus, minus = self._state(), self.excitation, self.inhibition
        source = self.through if self.apart is None else f"{self.through} (by its latents)"
        if not plus and not minus:
            moved, cause = "it", "or the image is blank there"
            if self.against is not None:
                moved, cause = "that", "the image is blank there, or both features weigh it alike"
            if self.apart is not None and any(self.apart.values()):
                left = ", ".join(f"{name} adds {x:+.3g}" for name, x in self.apart.items())
                return f"{state}, and no latent of {self.through} says why: {left}."
            return (
                f"{state}, and nothing in {source} can move {moved}: every path is shut by a "
                f"ReLU, {cause}."
            )
        balance = f"{source} excites it by {plus:.3g} and inhibits it by {minus:.3g}"
        if self.against is not None:
            balance = (
                f"{source} speaks for the first by {plus:.3g} and for the second by {minus:.3g}"
            )
        balance += f", {plus - minus:+.3g} together"
        rest = self.activation - (plus - minus)
        # What a dictionary leaves out is told beside the activation, however large the sides are.
        scale = plus + minus if self.apart is None else abs(self.activation)
        if abs(rest) > 0.05 * scale:
            cause = "biases on the way"
            if self.apart is not None:
                cause = f"what the latents leave out and {cause}"
            balance += f"; the other {rest:+.3g} comes from {cause}"
        return f"{state}: {balance}."

    def _state(self) -> str:
        """How active the feature is, or both are."""
        if self.against is not None:
            (first, second), (own, other) = self.titles, self.against.activations
            apart = f"a difference of {self.activation:+.3g}"
            return f"{first} is at {own:+.3g} and {second} at {other:+.3g}, {apart}"
        fired = "fires" if self.activation > 0 else "stays silent"
        if self.answer is not None:
            best, logit, rank = self.answer
            fired = "comes first" if rank == 1 else f"ranks {rank}, behind {best} at {logit:+.3g},"
        return f"{self.title} {fired} at {self.activation:+.3g}"

    def __repr__(self) -> str:
        return f"Why({self.title!r} in {self.image!r}: {self.activation:+.3g})"

    def _repr_html_(self) -> str:
        from opponent.core import notebook

        shown = [(self.tile.image, self.image)]
        if self.tile.excitation is not None:
            scale = overlay_scale([self.tile])
            colours = "excited red, inhibited blue, both green"
            if self.against is not None:
                colours = "for the first red, for the second blue, both green"
            shown.append((self.tile.overlaid(scale), colours))
        tables, listings = [], (self.drivers.exciting, self.drivers.inhibiting)
        for heading, listed in zip(self.side_names, listings, strict=True):
            rows = [(x.name, f"{x.excitation:.4g}", f"{x.inhibition:.4g}") for x in listed]
            tables.append(notebook.table((heading, "excitation", "inhibition"), rows, len(rows)))
        return notebook.section(
            self.question,
            notebook.text(self.verdict),
            notebook.pictures(shown, side=280),
            notebook.beside(*tables),
        )

    def numbers(self) -> list[tuple[str, str]]:
        """Name and value of what was measured, as text."""
        activation = f"{self.activation:+.4g}"
        if self.against is None:
            numbers = [("activation", activation)]
        else:
            both = zip((self.feature, self.against.feature), self.against.activations, strict=True)
            numbers = [(f"activation of {each.label}", f"{value:+.4g}") for each, value in both]
            numbers.append(("difference", activation))
        return [
            *numbers,
            ("excitation", f"{self.excitation:.4g}"),
            ("inhibition", f"{self.inhibition:.4g}"),
            ("tension", f"{min(self.excitation, self.inhibition):.4g}"),
        ]

    def terms(self) -> list[tuple[str, str]]:
        """Name and value of what a dictionary's bias and rest add, as text."""
        return [(name, f"{value:+.4g}") for name, value in (self.apart or {}).items()]

    def facts(self) -> list[tuple[str, str]]:
        """Name and value of everything but the channels, as text."""
        facts = [("network", self.network), ("image", self.image), ("feature", self.titles[0])]
        places = ("mostly excited in", "mostly inhibited in")
        if self.against is not None:
            facts.append(("against", self.against.title))
            places = ("for the first mostly in", "for the second mostly in")
        facts.append(("through", self.through))
        if self.dictionary is not None:
            facts.append(("dictionary", self.dictionary))
        facts += [*self.numbers(), *self.terms()]
        for name, place in zip(places, self.places, strict=True):
            if place is not None:
                facts.append((name, f"{place[0]} ({place[1]:.0%})"))
        if self.answer is not None:
            best, logit, rank = self.answer
            facts.append(("the network says", f"{best} ({logit:+.4g})"))
            which = "this logit" if self.against is None else self.feature.label
            facts.append((f"rank of {which}", str(rank)))
        if self.against is not None and self.against.rank is not None:
            facts.append((f"rank of {self.against.feature.label}", str(self.against.rank)))
        for name, percentile in (self.standing or {}).items():
            facts.append((f"percentile of {name}", f"{percentile:.1f}"))
        return [*facts, *self.drivers.facts()]

    def to_arrow(self) -> pa.Table:
        """One row a listed channel and side, with the shares that they cover."""
        return self.drivers.to_arrow()

    def to_pandas(self) -> "DataFrame":
        """The same as a pandas data frame."""
        return self.drivers.to_pandas()


def why(
    network: Network | nn.Module | str,
    image: Images,
    feature: Feature | str,
    through: str,
    *,
    against: Feature | str | None = None,
    run: Run | None = None,
    channels: int = 8,
    rule: AttributionRule | str | None = None,
    dictionary: Dictionary | str | Path | None = None,
) -> Why:
    """What drove a feature in one photograph, and what held it back.

    Args:
        network: a network, a module or a name.
        image: a file, or an entry of an image set.
        feature: a feature, or its name; 'logits:954' asks for a class.
        through: the layer that it is explained through.
        against: a second feature of the same layer and place, without a cosine, to compare with:
            what speaks for the first and against this one. Without a position of its own it is read
            where the first is.
        run: a finished scan of the same network, feature (or both) and through layer, to compare
            with.
        channels: how many upstream channels to name on either side. A channel that excites in one
            place and inhibits in another is ranked on each side by itself.
        rule: how S is computed: 'gradient', 'integrated-zero', 'integrated-mean', which takes its
            baseline from the run, or a rule of the user's own; default: as the run did, else the
            gradient times h.
        dictionary: of the through layer, or its file: latents are then named instead of channels;
            default: as the run did, else channels.
    Returns:
        The numbers, the channels with the part of the image where each adds most, and the picture
            with its maps.
    Raises:
        ValueError: a name, unit or position that does not fit; more than one image; a rule that
            needs a mean, without a run; two features that cannot be compared.
        RunError: the run is of another network, rule, through layer or dictionary, or unfinished.
        Unreadable: the image cannot be read.
        FileNotFoundError: there is no such file.
    Source: paper, section 3, for one image and by channel.

    >>> import numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> answer = opponent.why("inceptionv1-small", Noise(), "mixed3b:189", "mixed3a")
    >>> answer.title, answer.image, answer.through
    ('mixed3b:189@7,7', '0', 'mixed3a')
    """
    network = load(network)
    feature = network.resolve(feature)
    rival = None if against is None else rival_feature(network, feature, against)
    explained = feature if rival is None else difference(network, feature, rival)
    if run is not None:
        for each in (feature, *([rival] if rival else [])):
            _check(run, network, each, through)
    entry = _only_image(image, network)
    inputs, _ = network.load_inputs(entry)
    chosen_rule = parse_rule(rule or "gradient") if run is None else rule_of(run, rule)
    if run is not None:
        dictionary = _dictionary(run, dictionary)
    result = attribute(
        network,
        inputs,
        explained,
        through,
        rule=chosen_rule,
        baseline=None if run is None else baseline_of(run, network, chosen_rule),
        dictionary=dictionary,
    )
    kind = "channel" if result.dictionary is None else "latent"
    plus, minus = (
        x.float().cpu().numpy() for x in (result.excitation_channels, result.inhibition_channels)
    )
    shown = _tile(network, entry, result)
    return Why(
        network=network.name,
        image=entry.id,
        feature=feature,
        meaning=meaning_of(network, feature),
        through=through,
        activation=float(result.activation[0]),
        excitation=float(result.excitation[0]),
        inhibition=float(result.inhibition[0]),
        drivers=crop_drivers(
            network, rank_channels(plus, minus, through, channels, kind), result, entry
        ),
        places=(name_place(shown.excitation), name_place(shown.inhibition)),
        answer=answer_of(network, inputs, feature),
        standing=None if run is None else standing_in(run, feature, rival, result),
        tile=shown,
        against=None if rival is None else rival_of(network, inputs, feature, rival),
        apart=_apart(result),
        dictionary=None if result.dictionary is None else result.dictionary.described,
    )


def _tile(network: Network, entry: ImageEntry, result: Attribution) -> Tile:
    """The photograph with its maps, as the explained feature's receptive field sees it."""
    prepared, window = network.preprocessing, result.grid_window
    field = receptive_field(network, result.feature)
    zoom = zoom_for(prepared, field)
    excitation, inhibition = (
        m[0, *window.slices].float().cpu().numpy()
        for m in (result.excitation_map, result.inhibition_map)
    )
    return crop_tile(
        photograph(entry, prepared, zoom),
        (excitation, inhibition),
        window=window,
        placement=placement(network, result.through),
        field=field,
        size=prepared.size,
        zoom=zoom,
    )


def _only_image(image: Images, network: Network) -> ImageEntry:
    images = open_images(image, size=network.preprocessing.size)
    if len(images) != 1:
        raise ValueError(f"{images.source!r} holds {len(images)} images; name one file")
    return images[0]


def _check(run: Run, network: Network, feature: Feature, through: str) -> None:
    check_network(run, network)
    run.feature(feature)
    if run.manifest.through != through:
        raise RunError(
            f"{run.folder} was scanned through {run.manifest.through!r}, not through {through!r}"
        )


def _dictionary(run: Run, given: Dictionary | str | Path | None) -> Dictionary | None:
    """The dictionary of a run, checked against one that is handed over."""
    own = dictionary_of(run)
    if given is None:
        return own
    other = given if isinstance(given, Dictionary) else Dictionary.load(given)
    if own is None or own.sha256() != other.sha256():
        raise RunError(
            f"{run.folder} was scanned through {'no' if own is None else 'another'} dictionary; "
            "leave the dictionary out, or the run"
        )
    return own


def _apart(result: Attribution) -> dict[str, float] | None:
    """What a dictionary's bias and rest add in one image."""
    terms = {"dictionary's bias": result.bias, "dictionary's rest": result.rest}
    found = {name: float(x[0]) for name, x in terms.items() if x is not None}
    return found or None
