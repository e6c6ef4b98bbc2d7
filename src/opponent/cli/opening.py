"""From what is typed to what the library takes: networks, runs, features, executors."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from opponent.cli.output import out
from opponent.models.catalogue import check_model

if TYPE_CHECKING:
    from opponent.core.feature import Feature
    from opponent.models.network import Network
    from opponent.scan.ray import Ray
    from opponent.storage.run import Run


def open_network(text: str, device: str = "cpu") -> "Network":
    """The network that MODEL or MODEL=FILE names, on a device."""
    name, _, file = text.partition("=")
    check_model(name)  # before anything heavy is imported
    from opponent.models.registry import load

    return load(name, Path(file) if file else None).to(device)


def open_networks(texts: list[str], device: str = "cpu") -> "Iterator[Network]":
    """Networks, one after another; all their names are checked first."""
    for text in texts:
        check_model(text.partition("=")[0])
    return (open_network(text, device) for text in texts)


def open_run(folder: Path, images: str | None = None) -> "Run":
    """A run, with its images where these are a source of the user's own."""
    from opponent.storage.run import Run

    return Run(folder, images=images)


def scanned_network(run: "Run", device: str = "cpu", model: str | None = None) -> "Network":
    """The network of a run, on a device: the one that is named, or the one that the run names."""
    from opponent.scan.reopen import as_scanned, network_of

    named = None if model is None else as_scanned(run, open_network(model))
    return network_of(run, named).to(device)


def with_units(run: "Run", features: list[str] | None) -> "Run":
    """The run; or, where units of a scan of all units are named, that of the images kept of them.

    It says what those images tell, and how to have all.

    Raises:
        ValueError: some of those named have rows in the run, and others have not.
    """
    if run.manifest.units is None or not features:
        return run
    own = {name for each in run.features for name in (each.label, each.at(None).label)}
    with_rows = [each for each in features if each.strip() in own]
    if len(with_rows) == len(features):
        return run
    if with_rows:
        raise ValueError(
            f"{run.folder} holds all images of {', '.join(with_rows)}, but of the others only "
            "those that a scan of all units keeps; name them in a command of their own"
        )
    from opponent.scan.kept import scan_kept
    from opponent.storage.lookup import scan_command

    kept = scan_kept(run, features)
    labels = [feature.label for feature in kept.features]
    out.print(
        f"{kept.columns(labels[0], maps=False).scope} by the scan of all units: they tell how each "
        "group begins, of the tense images few; for all images: "
        f"{scan_command(run.folder, run.manifest, *labels)}",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
    return kept


def parse_features(texts: list[str], file: Path | None, power: int) -> "list[Feature]":
    """Features by name, among them directions of a file."""
    from opponent.core.feature import Feature
    from opponent.directions import Directions

    if file is None:
        if power:
            raise ValueError(f"--power {power} is for directions: give their file (--directions)")
        return [Feature.parse(text) for text in texts]
    return Directions.load(file).features(texts, power=power)


def ray_executor(address: str | None, cpus: float, gpus: float | None, device: str) -> "Ray | None":
    """Ray's actors as they are asked for; None where they are not."""
    if address is None:
        return None
    from opponent.scan.ray import Ray

    share = float(device.startswith("cuda")) if gpus is None else gpus
    return Ray(address=address, cpus=cpus, gpus=share)
