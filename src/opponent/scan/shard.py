"""One shard of a scan: its images attributed batch by batch, its rows, exemplars and summary."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from opponent.attribution.all_units import scores, scores_everywhere
from opponent.attribution.attribute import attribute_each
from opponent.attribution.result import Attribution
from opponent.attribution.rules import AttributionRule
from opponent.attribution.through_dictionary import images_at_once
from opponent.core.box import Box
from opponent.core.errors import out_of_memory
from opponent.core.progress import Progress, silent
from opponent.images.loader import Batch, load_batches
from opponent.models.finite import NOT_FINITE, not_finite
from opponent.models.network import Network
from opponent.scan.reopen import baseline_of, crop_plan_of, dictionary_of, units_plan_of
from opponent.storage.columns import APART, SCALARS
from opponent.storage.run import EXEMPLARS, Run
from opponent.storage.run_writer import write_exemplars, write_shard, write_summary
from opponent.storage.summary import SCORES, summarise

_Result = TypeVar("_Result")


def compute_shards(
    run: Run,
    network: Network,
    rule: AttributionRule,
    shards: Sequence[int],
    progress: Progress = silent,
) -> None:
    """Compute and write some shards of a run, in order.

    Args:
        run: the run folder.
        network: the network that the run names.
        rule: the rule that it names.
        shards: their numbers.
        progress: called with 'scanning', the images done and the images in all, counting those of
            all other shards as done.
    """
    rows = [run.shard_rows(number) for number in shards]
    places = [place for shard in rows for place in shard]
    total = len(run.images)
    before = total - len(places)
    progress("scanning", before, total)
    if not shards:
        return
    batches = load_batches(
        [run.images[place] for place in places],
        network.preprocessing.fit,
        batch_size=run.manifest.batch_size,
        groups=[len(shard) for shard in rows],
    )
    scanner = _Scanner(run, network, rule)
    with closing(batches):
        shard = _Shard(run)
        for batch in batches:
            scanner.add(shard, batch, places)
            progress("scanning", before + batch.done, total)
            if batch.ends_group:
                shard.write(shards[batch.group])
                shard = _Shard(run)


class _Exemplars(NamedTuple):
    """For each channel its largest values, the images that they lie in, and where in the map."""

    values: Float[np.ndarray, "m k"]
    numbers: Int[np.ndarray, "m k"]
    places: Int[np.ndarray, "m k"]


class _Shard:
    """What is known of one shard so far."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.images: list[str] = []
        self.scored: list[int] = []  # places of the images of `scores`
        self.unreadable: dict[str, str] = {}
        self.contents: list[bytes] = []
        self.columns: list[list[dict[str, np.ndarray]]] = [[] for _ in run.features]
        self.scores: list[Float[np.ndarray, "n u s"]] = []
        channels = run.manifest.through_shape[0]
        self.exemplars = _Exemplars(
            np.empty((0, channels), np.float32), *np.empty((2, 0, channels), np.int64)
        )

    def write(self, number: int) -> None:
        """Write it, the shard itself last."""
        units = self.run.manifest.units
        if units is not None:
            empty = np.empty((0, units.count, len(SCORES)), np.float32)
            places = np.array(self.scored, np.int64)
            summary = summarise(np.concatenate([empty, *self.scores]), places, units.keep)
            write_summary(self.run, number, summary)
        write_exemplars(self.run, number, self.images, *self.exemplars)
        write_shard(self.run, number, self.images, self.columns, self.unreadable, self.contents)


class _Scanner:
    """What attributes batches, and adds them to a shard."""

    def __init__(self, run: Run, network: Network, rule: AttributionRule) -> None:
        self.run, self.network, self.rule = run, network, rule
        self.baseline = baseline_of(run, network, rule)
        self.dictionary = dictionary_of(run)
        self.plan = crop_plan_of(run, network) if run.features else None
        self.units_plan = None if run.manifest.units is None else units_plan_of(run, network)

    def add(self, shard: _Shard, batch: Batch, places: Sequence[int]) -> None:
        """Attribute a batch.

        Args:
            shard: what it is added to.
            batch: the images.
            places: by number of the batch's images, their places among the run's.
        """
        images = self.run.images
        shard.contents += [content for _, content in sorted(batch.contents.items())]
        for number, reason in batch.unreadable.items():
            shard.unreadable[images[places[number]].id] = reason
        if not batch.numbers:
            return
        inputs, done = self.network.inputs(batch.pixels), 0
        parts = inputs.split(self._at_once(len(inputs)))
        for count, unit_scores, results in (
            found for part in parts for found in _fitting(self._attribute, part)
        ):
            here = [places[number] for number in batch.numbers[done : done + count]]
            done += count
            wrong = dict[int, str]()
            if unit_scores is not None:
                scores = unit_scores.float().cpu().numpy()
                shard.scores.append(scores)
                shard.scored += here
                wrong |= _without_any(scores, self.run.all_units().layer)
            wrong |= not_finite({x.feature.label: _largest(x) for x in results})
            shard.unreadable |= {images[here[row]].id: why for row, why in wrong.items()}
            self._add_results(
                shard, here, [row for row in range(count) if row not in wrong], results
            )

    def _at_once(self, count: int) -> int:
        """How many images go together, so that S of all features over latents has room."""
        if self.dictionary is None or self.plan is None:
            return count
        return max(1, images_at_once(self.dictionary, self.plan) // len(self.run.features))

    def _attribute(self, inputs: Tensor) -> tuple[int, Tensor | None, list[Attribution]]:
        """How many images, the scores of all units, and each feature's attribution."""
        unit_scores = None if self.units_plan is None else self._score(inputs)
        if self.plan is None:
            return len(inputs), unit_scores, []
        results = attribute_each(
            self.network,
            inputs,
            self.run.features,
            self.run.through,
            rule=self.rule,
            baseline=self.baseline,
            plan=self.plan,
            dictionary=self.dictionary,
        )
        return len(inputs), unit_scores, results

    def _score(self, inputs: Tensor) -> Float[Tensor, "n u s"]:
        units = self.run.all_units()
        assert self.units_plan is not None
        if units.position == "*":
            return scores_everywhere(self.network, inputs, units.layer, self.run.through)
        return scores(self.network, inputs, self.units_plan)

    def _add_results(
        self, shard: _Shard, places: list[int], rows: list[int], results: Sequence[Attribution]
    ) -> None:
        """Add what is known of some rows of a batch, of images at these places."""
        first = len(shard.images)
        shard.images += [self.run.images[places[row]].id for row in rows]
        if not rows or not results:
            return
        results = [_of_rows(result, rows) for result in results]
        width = self.run.manifest.through_shape[2]
        # Of tokens, those that lie on the image; S may depend on none of these.
        window, box = results[0].window, results[0].grid_window
        inside = box.moved(-window.top, -window.left)
        if inside.top + inside.height <= window.height:
            hidden = results[0].hidden[:, :, *inside.slices]
            shard.exemplars = _most_active(shard.exemplars, hidden, first, box, width)
        for columns, result in zip(shard.columns, results, strict=True):
            window = self.run.through_window(result.feature)
            scalars = (*SCALARS, *(APART if self.dictionary else ()))
            values = {name: getattr(result, name) for name in scalars} | {
                "excitation_map": _within(window, result.excitation_map),
                "inhibition_map": _within(window, result.inhibition_map),
                "channels": result.channels,
                "inhibition_channels": result.inhibition_channels,
            }
            columns.append({name: x.float().cpu().numpy() for name, x in values.items()})


def _largest(result: Attribution) -> Float[np.ndarray, "n 3"]:
    """Numbers of each image that are finite only where S and all that is kept of it are."""
    largest = (result.activation, result.l1, result.l2)
    return torch.stack(largest, 1).float().cpu().numpy()


def _of_rows(result: Attribution, rows: list[int]) -> Attribution:
    """The attribution of some of its images."""
    if len(rows) == len(result):
        return result
    return replace(
        result,
        activation=result.activation[rows],
        window_attribution=result.window_attribution[rows],
        hidden=result.hidden[rows],
        bias=None if result.bias is None else result.bias[rows],
        rest=None if result.rest is None else result.rest[rows],
    )


def _without_any(scores: Float[np.ndarray, "n u s"], layer: str) -> dict[int, str]:
    """The images in which no unit's scores are finite, with the reason."""
    nothing = ~np.isfinite(scores).all(2).any(1)
    return dict.fromkeys(np.flatnonzero(nothing).tolist(), f"{NOT_FINITE}every unit of {layer}")


def _fitting(compute: Callable[[Tensor], _Result], inputs: Tensor) -> Iterator[_Result]:
    """What is computed of a batch, or, where memory does not hold all of it, of its halves."""
    try:
        yield compute(inputs)
        return
    except (RuntimeError, MemoryError) as error:
        if len(inputs) == 1 or not out_of_memory(error):
            raise
    # Here, and not above: the exception held what was computed.
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()
    for half in inputs.split(-(-len(inputs) // 2)):
        yield from _fitting(compute, half)


def _most_active(
    exemplars: _Exemplars, hidden: Float[Tensor, "n k h w"], first: int, box: Box, width: int
) -> _Exemplars:
    """The largest of the exemplars so far and of more images, counted from `first`, one an image.

    Of the images the box of the map is known; places count along the rows of all of it.
    """
    values, places = (x.cpu().numpy() for x in hidden.float().flatten(2).max(2))
    places = (places // box.width + box.top) * width + places % box.width + box.left
    numbers = np.broadcast_to(first + np.arange(len(values))[:, None], values.shape)
    more = _Exemplars(values.astype(np.float32), numbers, places)
    joined = [np.concatenate(pair) for pair in zip(exemplars, more, strict=True)]
    order = np.argsort(-joined[0], axis=0, kind="stable")[:EXEMPLARS]
    return _Exemplars(*(np.take_along_axis(x, order, 0) for x in joined))


def _within(window: Box, maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n y x"]:
    """Maps within the window where S is not zero, after checking that it is zero elsewhere."""
    inside = maps[:, *window.slices]
    assert inside.count_nonzero() == maps.count_nonzero(), f"S reaches beyond {window}"
    return inside
