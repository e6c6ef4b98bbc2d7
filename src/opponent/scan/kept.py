"""Units of a scan of all units, attributed in the images that the scan keeps of them."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from opponent.attribution.rules import parse_rule
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.progress import Progress, displayed, silent
from opponent.core.text import file_name
from opponent.images.compare import refuse_changed
from opponent.images.imageset import ImageSet
from opponent.models.network import Network
from opponent.scan.local import begin_scan
from opponent.scan.reopen import known_images, network_of
from opponent.scan.shard import compute_shards
from opponent.storage.lookup import scan_command
from opponent.storage.manifest import KeptRecord
from opponent.storage.run import Run
from opponent.storage.run_writer import finish_run
from opponent.storage.summary import SCORES


@displayed
def scan_kept(
    run: Run,
    units: Sequence[Feature | str] | Feature | str,
    *,
    network: Network | nn.Module | str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Attribute units of a scan of all units in the images that it keeps of them.

    Of each unit and score, a scan of all units keeps the images at either end. The result is a run
    of these images alone, in a folder within the run's. Its exciting, inhibiting, silent and tense
    images are the first of those groups among all images, as far as the kept images tell: of tense
    ones that may be few. Deviations are over all images. What needs all images is refused.

    Args:
        run: a finished scan of all units of a layer, at one position.
        units: one or more of them, such as 'mixed3b:379'.
        network: the network that was scanned; default: loaded by its name.
        progress: called with what is being done, the images done and the images in all; default: a
            display that appears after two seconds.
    Returns:
        The run of those images; `columns().kept` says of how many they are.
    Raises:
        RunError: the run is none of all units, or unfinished; the network is another.
        ValueError: no unit of that layer and position; a scan at every position, which does not
            keep where in an image a score was largest. The message has the command for it.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return [str(i) for i in range(4)]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:*", "mixed3a", out=out)
    ...     kept = opponent.scan_kept(run, "mixed3b:189")
    ...     opponent.select(kept, k=2)["exciting"]
    Selected('exciting': 2 images)
    """
    given = [units] if isinstance(units, Feature | str) else list(units)
    features = [_unit(run, each) for each in given]
    summary, record = run.summary(), run.all_units()
    places = np.array([x.unit for x in features])
    numbers = np.unique(summary.images[places])
    entries = tuple(run.images[int(number)] for number in numbers if number >= 0)
    if not entries:
        raise RunError(f"no image of {run.folder} could be read; see unreadable.csv in it")
    deviations = summary.deviation()[:, SCORES.index("activation")]
    images = ImageSet(source=run.images.source, entries=entries, origin=run.images.origin)
    opened, rule = network_of(run, network), parse_rule(run.manifest.rule)
    kept = begin_scan(
        opened,
        images,
        features,
        run.through,
        out=run.folder / "kept" / file_name(" ".join(x.label for x in features)),
        rule=rule,
        batch_size=run.manifest.batch_size,
        seed=run.manifest.seed,
        kept=KeptRecord(
            images=summary.count,
            keep=record.keep,
            deviations=deviations[places].tolist(),
        ),
    )
    refuse_changed(known_images(kept), progress or silent)
    compute_shards(kept, opened, rule, kept.missing(), progress or silent)
    finish_run(kept)
    return kept


def _unit(run: Run, unit: Feature | str) -> Feature:
    """A unit at the position of the scan."""
    record = run.all_units()
    feature = Feature.parse(unit) if isinstance(unit, str) else unit
    if feature.layer != record.layer or feature.unit is None or feature.unit >= record.count:
        raise ValueError(
            f"{run.folder} holds units {record.layer}:0 to {record.layer}:{record.count - 1}, not "
            f"{feature.label}"
        )
    if record.position == "*":
        raise ValueError(
            f"{run.folder} keeps each unit's largest score over all positions, but not where it "
            f"was; for pictures of {feature.label} scan it at one position: "
            f"{scan_command(run.folder, run.manifest, feature.label)}"
        )
    if feature.position not in (None, record.position):
        raise ValueError(
            f"{run.folder} was scanned at {feature.at(record.position).label}, not at "
            f"{feature.label}; for that: {scan_command(run.folder, run.manifest, feature.label)}"
        )
    return feature.at(record.position)
