"""From every kind of source to a run folder, and back."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.images.test_archives import tar, zipped
from tests.images.test_objects import Own, Table
from tests.support.extensions import Workers
from tests.support.image_files import encoded
from tests.support.scans import files, two_convolutions
from torch.utils.data import DataLoader

from opponent import Crops, Run, RunError, Unreadable, attribute, open_images, scan_images
from opponent.__main__ import main
from opponent.explain.crops import photograph
from opponent.images.loader import load_images
from opponent.images.sources import Images

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"batch_size": 2, "shard_size": 3}
PICTURES = [np.random.default_rng(n).integers(0, 256, (20, 24, 3), np.uint8) for n in range(5)]
BROKEN = 2  # the image that cannot be read


def members(suffix: str) -> dict[str, bytes]:
    content = {f"{n}{suffix}": encoded(picture, "PNG") for n, picture in enumerate(PICTURES)}
    return content | {f"{BROKEN}{suffix}": b"no picture"}


def shards(folder: Path) -> Images:
    items = [*members(".png").items()]
    for number, part in enumerate((items[:2], items[2:])):
        tar(folder / f"s-{number}.tar", dict(part))
    return str(folder / "s-{0..1}.tar")


def arrays(folder: Path) -> Images:
    for n, picture in enumerate(PICTURES):
        np.save(folder / f"{n}.npy", picture)
    (folder / f"{BROKEN}.npy").write_bytes(b"\x93NUMPY no more")
    return folder


ON_DISK: dict[str, Callable[[Path], Images]] = {
    "one tar": lambda folder: tar(folder / "a.tar", members(".png")),
    "tars": shards,
    "zip": lambda folder: zipped(folder / "a.zip", members(".png")),
    "folder of arrays": arrays,
    "crops of a tar": lambda folder: f"crops:4:{tar(folder / 'a.tar', members('.png'))}",
}


def items() -> list[Any]:
    """PIL images, an array, a tensor with a label, and one that is no picture."""
    first, second, _, fourth, fifth = PICTURES
    tensor = torch.from_numpy(fourth).permute(2, 0, 1)
    floats = torch.from_numpy(fifth).permute(2, 0, 1).float() / 255
    return [Image.fromarray(first), second, "no picture", (tensor, 3), floats]


IN_OBJECTS: dict[str, Callable[[], Images]] = {
    "data set": lambda: Own(items()),
    "loader": lambda: DataLoader(Own(items()), batch_size=3, shuffle=True),
    "table": lambda: Table([{"image": x, "label": 1} for x in (*PICTURES[:2], 7, *PICTURES[3:])]),
    "mapping": lambda: {str(n): x for n, x in enumerate(items())},
    "list": items,
    "crops": lambda: Crops(source=Own(items()), per_image=4),
}


def check(run: Run, images: Images) -> None:
    """Row by row what `attribute` gives of the pictures; the broken one is listed."""
    network = two_convolutions()
    opened = open_images(images, size=network.preprocessing.size)
    readable = [x for x in opened if x.id.partition("@")[0].partition(".")[0] != str(BROKEN)]
    assert len(run.unreadable()) == 1
    assert run.columns().images == tuple(entry.id for entry in readable)
    for row, entry in enumerate(readable):
        picture = PICTURES[int(entry.id[0])]
        if entry.box is not None:
            top, left, height, width = entry.box
            picture = picture[top : top + height, left : left + width]
        expected = attribute(network, {"x": picture}, "two:3", "relu")
        np.testing.assert_allclose(run.columns().l1[row], expected.l1[0], rtol=1e-4)


@pytest.mark.parametrize("executor", [None, Workers()])
@pytest.mark.parametrize("kind", ON_DISK)
def test_a_run_knows_where_its_images_lie(
    kind: str, executor: Workers | None, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    images, network = ON_DISK[kind](tmp_path / "in"), two_convolutions()
    before = files(tmp_path / "in")
    run = scan_images(
        network, images, "two:3", "relu", out=tmp_path / "run", executor=executor, **SIZES
    )
    check(run, images)
    again = Run(run.folder)
    assert again.images == run.images
    entry = next(x for x in again.images if x.id in again.columns().images)
    fit = network.preprocessing.fit
    [found] = load_images([entry], fit)
    [expected] = load_images([open_images(images, size=fit.size).find(entry.id)], fit)
    np.testing.assert_array_equal(found, expected)
    # It goes on, to the same bytes, and nothing was unpacked.
    whole = files(tmp_path / "run")
    again.shard(0).unlink()
    scan_images(network, images, "two:3", "relu", out=tmp_path / "run", **SIZES)
    assert files(tmp_path / "run") == whole
    assert files(tmp_path / "in") == before


@pytest.mark.parametrize("kind", IN_OBJECTS)
def test_an_object_is_handed_over_again(kind: str, tmp_path: Path) -> None:
    images, network = IN_OBJECTS[kind](), two_convolutions()
    run = scan_images(network, images, "two:3", "relu", out=tmp_path / "run", **SIZES)
    check(run, images)
    alone = Run(run.folder)
    assert alone.columns().images == run.columns().images
    first = alone.images[0]
    with pytest.raises(Unreadable, match=r"it is no file, and its image source was not"):
        next(load_images([first], network.preprocessing.fit))
    again = Run(run.folder, images=IN_OBJECTS[kind]())
    assert again.images == run.images
    [found] = load_images(again.images[:1], network.preprocessing.fit)
    [expected] = load_images(run.images[:1], network.preprocessing.fit)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(RunError, match=r"was scanned with other images than '.*' holds; hand over"):
        Run(run.folder, images=PICTURES[:2])
    whole = files(tmp_path / "run")
    again.shard(0).unlink()
    scan_images(network, images, "two:3", "relu", out=tmp_path / "run", executor=Workers(), **SIZES)
    assert files(tmp_path / "run") == whole


def test_the_table_of_images_says_where_in_an_archive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", members(".png"))
    run = scan_images(two_convolutions(), path, "two:3", "relu", out=tmp_path / "run", **SIZES)
    table = pq.read_table(run.folder / "images.parquet")
    assert table.column_names[2:] == [
        "top", "left", "height", "width", "offset", "length", "zipped", "content"
    ]  # fmt: skip
    assert set(table["path"].to_pylist()) == {str(path)}
    # Changed since: told, not read from the wrong place.
    path.write_bytes(path.read_bytes()[:50])
    assert Run(run.folder).images.digest() != run.manifest.images.sha256
    shutil.copy(__file__, path)
    with pytest.raises(Unreadable, match=r"0.png in .*a.zip cannot be read: .*; was it changed\?"):
        next(load_images(Run(run.folder).images[:1], run.preprocessing.fit))


MODULE = """
import numpy as np
from torch.utils.data import DataLoader, Dataset

PICTURES = [np.random.default_rng(n).integers(0, 256, (64, 64, 3), np.uint8) for n in range(3)]


class Data(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return PICTURES[index], "a label"


data = Data()
loader = DataLoader(data, batch_size=2)


def make():
    return {"a": PICTURES[0], "b": PICTURES[1], "c": PICTURES[2]}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of objects in the working folder."""
    name = f"objects_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return f"module:{name}"


def command(*words: str) -> int | str | None:
    """What a command ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["opponent", *words])
        try:
            main()
        except SystemExit as end:
            return end.code
    return 0


@pytest.mark.parametrize("what", ["Data", "data", "loader", "make", "PICTURES"])
def test_objects_by_name(
    module: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"{module}:{what}"
    scan = ["scan", "inceptionv1-small", "mixed3b:189", "--through", "mixed3a", "--out", "run"]
    assert command(*scan, "--images", source) in (0, None)
    assert "3 images scanned" in capsys.readouterr().out
    assert json.loads(Path("run/manifest.json").read_text())["images"]["source"] == source
    assert command("select", "run", "-k", "1") in (0, None)
    assert command("why", "inceptionv1-small", f"crops:1:{source}", "mixed3b:189") == 2
    assert Run("run", images=source).images[0].id == ("a" if what == "make" else "0")
    capsys.readouterr()
    one = ["invert", "run", "--steps", "2", "--image"]
    assert command(*one, Run("run").images[0].id) == 2
    assert "source was not handed over" in " ".join(capsys.readouterr().err.split())
    assert command(*one, Run("run").images[0].id, "--images", source) in (0, None)


def test_a_picture_of_a_member(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", members(".png"))
    run = scan_images(two_convolutions(), path, "two:3", "relu", out=tmp_path / "run", **SIZES)
    shown = photograph(Run(run.folder).images.find("1"), run.preprocessing)
    with Image.open(io.BytesIO(members(".png")["1.png"])) as image:
        picture = {"x": np.asarray(image)}
    [expected] = load_images(open_images(picture).entries, run.preprocessing.fit)
    np.testing.assert_array_equal(shown, expected)
