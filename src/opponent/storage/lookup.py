"""Which of a run's features is meant; and what to do about one that the run has no rows of."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opponent.core.feature import Feature
from opponent.core.text import file_name
from opponent.storage.files import AnyPath
from opponent.storage.manifest import Manifest

if TYPE_CHECKING:
    from opponent.storage.run import Run

_NAME_IT = "name one (--feature LABEL; in Python `feature=`)"


def find_feature(
    folder: AnyPath, manifest: Manifest, features: Sequence[Feature], feature: Feature | str | None
) -> Feature:
    """One of a run's features; without a name, the only one.

    Args:
        folder: the run folder, for messages.
        manifest: the run's.
        features: the run's, in order.
        feature: a feature or its label, with or without the position.
    Raises:
        ValueError: no name where there are several features; a name that fits none, or several.
    """
    if feature is None:
        if len(features) == 1:
            return features[0]
        if features:
            raise ValueError(
                f"{folder} holds {len(features)} features, {_labels(features)}; {_NAME_IT}"
            )
        units = manifest.units
        assert units is not None
        raise ValueError(
            f"{folder} holds all {units.count} units of {units.layer}; {_NAME_IT}, such as "
            f"{units.layer}:0; `opponent units` lists them by a score"
        )
    if isinstance(feature, Feature):
        label = feature.label
        fitting = [each for each in features if feature in (each, each.at(None))]
    else:
        # By label, for a direction has a name that does not parse.
        label = feature.strip()
        fitting = [each for each in features if label in (each.label, each.at(None).label)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{label!r} fits {_labels(fitting)} of {folder}; give the position too")
    if manifest.units is not None and label.rpartition(":")[0] == manifest.units.layer:
        raise ValueError(
            f"{folder} keeps no rows of {label}, only its extreme images: select, figures, who and "
            "invert take these (in Python `opponent.scan_kept`); what is about all images needs a "
            f"scan of its own: {scan_command(folder, manifest, label)}"
        )
    raise ValueError(f"{folder} holds no {label!r}; it holds {_labels(features)}")


def features_of(run: "Run", features: Sequence[Feature | str] | None = None) -> list[Feature]:
    """Those of a run's features that are named; without names, all.

    Args:
        run: the run.
        features: features or their labels.
    Raises:
        ValueError: a name that fits none, or several; a run of all units, which has no features.
    """
    if features is None and not run.features:
        run.feature()  # says what the run holds instead
    return [run.feature(each) for each in (run.features if features is None else features)]


def _labels(features: Sequence[Feature], most: int = 20) -> str:
    shown = ", ".join(each.label for each in features[:most])
    return shown + (f" and {len(features) - most} more" if len(features) > most else "")


def scan_command(
    folder: AnyPath, manifest: Manifest, *labels: str, through: str | None = None
) -> str:
    """The command that scans units in all of a run's images.

    Args:
        folder: the run folder.
        manifest: the run's.
        labels: the units', such as 'mixed3b:379'.
        through: the layer to explain them through; default: the run's.
    """
    network = manifest.network
    file = "" if network.weights_file is None else f"={network.weights_file}"
    words = ["opponent", "scan", f"{network.asked or network.name}{file}", *labels]
    words += [
        "--through",
        through or manifest.through,
        "--images",
        manifest.images.source,
        "--out",
        f"{folder}-{file_name(' '.join(labels))}",
    ]
    if network.dtype != "float32":
        words += ["--dtype", network.dtype]
    if manifest.dictionary is not None:
        words += ["--dictionary", f"{folder}/dictionary.safetensors"]
    if network.preprocessing.draft:
        words.append("--draft")
    if network.preprocessing.value_range is not None:
        words += ["--value-range", *map(str, network.preprocessing.value_range)]
    if network.preprocessing.largest is not None:
        words += ["--largest-image", f"{network.preprocessing.largest / 1e6:g}"]
    return shlex.join(words)
