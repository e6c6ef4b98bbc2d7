"""From what is typed to what the library takes: networks, runs, features, executors."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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


def chosen(run: "Run", features: list[str] | None) -> "list[Feature]":
    """Those of the run's features that are named; without names, all."""
    if not run.features:
        run.feature()  # says what the run holds instead
    return [run.feature(each) for each in features] if features else list(run.features)


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
