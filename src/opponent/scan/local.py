"""One pass over many images for many features."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from platform import node

import msgspec
import torch
from torch import nn

from opponent.attribution.attribute import BATCH
from opponent.attribution.baseline import mean_activation
from opponent.attribution.rules import AttributionRule, parse_rule
from opponent.core.errors import RunError
from opponent.core.progress import Progress, shown
from opponent.dictionaries.dictionary import Dictionary
from opponent.geometry.crop_check import copy_of
from opponent.images.compare import refuse_changed
from opponent.images.imageset import ImageSet
from opponent.images.sources import Images
from opponent.models.finite import NOT_FINITE, likely_cause
from opponent.models.network import Network
from opponent.models.registry import load
from opponent.scan.executor import Executor
from opponent.scan.plan import Features, plan_scan, with_crop_plans
from opponent.scan.reopen import DICTIONARY, check_computation, known_images, network_of
from opponent.scan.shard import compute_shards
from opponent.storage.checkpoints import SHARD
from opponent.storage.files import AnyPath, atomic_write, sweep, to_path
from opponent.storage.manifest import KeptRecord, versions
from opponent.storage.run import Run
from opponent.storage.run_writer import begin_run, finish_run, write_baseline


def scan_images(
    network: Network | nn.Module | str,
    images: Images,
    features: Features,
    through: str,
    *,
    out: str | AnyPath,
    rule: AttributionRule | str = "gradient",
    dictionary: Dictionary | str | Path | None = None,
    batch_size: int = BATCH,
    shard_size: int = SHARD,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Run:
    """Attribute features of one layer in every image, into a run folder.

    A scan that was interrupted goes on where it stopped, and ends with the same bytes. An image for
    which activation or S of a feature is not finite is left out, as one that cannot be read is;
    `Run.unreadable` names both.

    Args:
        network: a network, a module or a name.
        images: a folder, an archive, a data set, arrays: whatever `open_images` takes.
        features: one or more features of one layer; a feature without a position is read at the
            centre. 'LAYER:*' (or 'LAYER:*@ROW,COLUMN') is all its units: of these, the run keeps
            extremes and distributions; of the others, every image. 'LAYER:*@*' is each unit's
            largest score over all positions, where one convolution gives the layer.
        through: the layer to explain them through.
        out: the run folder, new or that of the same scan.
        rule: how S is computed: 'gradient', 'integrated-zero', 'integrated-mean', or a rule of the
            user's own. 'integrated-mean' starts from the mean over the first 1,000 images.
        dictionary: of the through layer, or its file: S is then of its latents, which take the
            channels' place in all results. It is kept in the run folder.
        batch_size: images a pass.
        shard_size: images a file of results.
        seed: what later steps draw their random numbers from.
        executor: computes the shards elsewhere, such as `opponent.Ray`; None computes them here.
        progress: called with what is being done, the images done and the images in all; default: a
            display that appears after two seconds.
    Returns:
        The finished run.
    Raises:
        ValueError: a feature, layer, number or source that does not fit; a network that does not
            lie where the executor computes.
        RunError: the folder holds another scan, or no image gives finite numbers.
        FileNotFoundError: there is no such folder or file of images.
    Source: paper, eqs. 1 to 3.

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
    ...     run.columns()
    Columns(4 images, maps of 5 x 5)
    """
    opened, rule = load(network), parse_rule(rule)
    if isinstance(dictionary, str | Path):
        dictionary = Dictionary.load(dictionary)
    if executor is not None:
        executor.check(opened, by_name=isinstance(network, str))
    run = begin_scan(
        opened, images, features, through, out=out, rule=rule, batch_size=batch_size,
        shard_size=shard_size, seed=seed, dictionary=dictionary,
    )  # fmt: skip
    with shown(progress) as report:
        refuse_changed(known_images(run), report)
        if executor is None:
            compute_shards(run, opened, rule, run.missing(), report)
        else:
            handed = None if isinstance(network, str) else opened
            _compute_elsewhere(run, opened, handed, rule, executor, report)
    finish_run(run)
    _refuse_nothing_finite(run, opened)
    return run


def _refuse_nothing_finite(run: Run, network: Network) -> None:
    """Refuse a run without rows, where it is numbers that are not finite, and not files."""
    left_out = run.unreadable()
    reasons = [reason for reason in left_out.values() if reason.startswith(NOT_FINITE)]
    if reasons and len(left_out) == len(run.images):
        raise RunError(
            f"no image of {run.folder} gave finite numbers ({reasons[0]}): {likely_cause(network)}"
            + ("; or the dictionary's numbers are too large" if run.manifest.dictionary else "")
        )


def begin_scan(
    network: Network,
    images: Images,
    features: Features,
    through: str,
    *,
    out: str | AnyPath,
    rule: AttributionRule,
    batch_size: int = BATCH,
    shard_size: int = SHARD,
    seed: int = 0,
    kept: KeptRecord | None = None,
    dictionary: Dictionary | None = None,
) -> Run:
    """The run folder with all but its shards: what each of them needs is in it.

    Args as `scan_images`, and `kept`, where the images are those that another scan keeps.
    """
    manifest, chosen = plan_scan(
        network, images, features, through, rule=rule, batch_size=batch_size,
        shard_size=shard_size, seed=seed, dictionary=dictionary,
    )  # fmt: skip
    manifest = msgspec.structs.replace(manifest, kept=kept)
    baseline = None
    if not (to_path(out) / "manifest.json").exists():
        baseline = mean_activation(network, chosen, through) if rule.needs_mean else None
        manifest = with_crop_plans(network, manifest, chosen, rule, baseline)
    run = begin_run(out, manifest, chosen)
    check_computation(run, network, manifest.network.signature)
    if dictionary is not None and not (run.folder / DICTIONARY).is_file():
        with atomic_write(run.folder / DICTIONARY) as temporary:
            dictionary.save(temporary)
    if rule.needs_mean and not run.baseline_file.is_file():
        if baseline is None:
            baseline = mean_activation(network, chosen, through)
        write_baseline(run, baseline)
    return run


def _compute_elsewhere(
    run: Run,
    network: Network,
    handed: Network | None,
    rule: AttributionRule,
    executor: Executor,
    progress: Progress,
) -> None:
    """Have an executor compute the shards that are missing.

    Args:
        run: the run.
        network: its network.
        handed: the same, where the workers cannot load it by name.
        rule: the run's rule.
        executor: where shards are computed.
        progress: called with 'scanning', the images done and the images in all.
    """
    if not isinstance(run.folder, Path) and run.folder.protocol == "memory":
        raise ValueError(f"{run.folder} lies within this process; no other can write to it")
    shards = {number: shard_images(run, number) for number in run.missing()}
    total = len(run.images)
    done = total - sum(len(images) for images in shards.values())
    progress("scanning", done, total)
    make = partial(
        _shard_worker, run.folder.absolute(), None if handed is None else copy_on_cpu(handed),
        network.device.type, executor.threads, rule, run.images.origin,
    )  # fmt: skip
    tasks = [(number, images.digest()) for number, images in shards.items()]
    with closing(executor.map(make, tasks)) as finished:
        for number, _ in finished:
            done += len(shards[number])
            progress("scanning", done, total)
    for name in ("scan", "channels", "units"):
        sweep(run.folder / name)


def _shard_worker(
    folder: AnyPath,
    network: Network | None,
    device: str,
    threads: int,
    rule: AttributionRule,
    origin: Images | None,
) -> Callable[[tuple[int, str]], None]:
    """What computes a run's shards in a worker: each with its number and its images' digest."""
    run, network = reopen_in_worker(folder, network, device, threads, origin)

    def compute(task: tuple[int, str]) -> None:
        number, digest = task
        if shard_images(run, number).digest() != digest:
            raise RunError(
                f"{node()} does not find the images of the scan in {folder} as the driver does "
                f"(those of shard {number}); put them where every machine finds them by the same "
                "path"
            )
        compute_shards(run, network, rule, [number])

    return compute


def shard_images(run: Run, number: int) -> ImageSet:
    """The images of one shard."""
    rows = run.shard_rows(number)
    return ImageSet(source="", entries=run.images.entries[rows.start : rows.stop])


def reopen_in_worker(
    folder: AnyPath,
    network: Network | None,
    device: str,
    threads: int,
    origin: Images | None = None,
) -> tuple[Run, Network]:
    """A run and its network in a worker's process, on its device and with so many threads.

    Args:
        folder: the run folder.
        network: the network; None loads it by its name.
        device: where the network computes.
        threads: how many threads torch uses.
        origin: the images that were scanned, where they are no files.
    Raises:
        RunError: this machine has other versions than the run was begun with.
    """
    torch.set_num_threads(threads)
    run = Run(folder, images=origin)
    here, there = versions(), run.manifest.versions
    if here != there:
        other = ", ".join(f"{k} {here.get(k)}" for k in there if here.get(k) != there[k])
        raise RunError(
            f"{node()} has other software than the scan in {run.folder} began with ({other}); "
            "install the same versions on every machine"
        )
    return run, (network or network_of(run)).to(device)


def copy_on_cpu(network: Network) -> Network:
    """A copy of the network on the CPU, or the network itself where it is there."""
    if network.device.type == "cpu":
        return network
    return copy_of(network).to("cpu")
