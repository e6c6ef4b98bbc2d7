"""Figures of a run: each alone, and all in a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.figures import pictures, words
from tests.support.pictures import paint_noise
from tests.support.plain import plain_network

from opponent import Run, SynthesisSettings, scan_images
from opponent.core.text import in_deviations
from opponent.explain.crops import run_tiles
from opponent.plots import (
    energies_figure,
    groups_figure,
    plot_energies,
    plot_exemplars,
    plot_groups,
    plot_inversions,
    save,
    write_figures,
)
from opponent.selection import exciting, inhibiting, select, tense
from opponent.storage.columns import Columns

STEPS = SynthesisSettings(steps=1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of pictures of noise."""
    folder = tmp_path_factory.mktemp("run")
    images = paint_noise(folder / "pictures", 30, (20, 14))
    return scan_images(
        plain_network(), images, ["after:0", "after:1@0,4"], "relu", out=folder / "run"
    )


def saved(figure: object, path: Path) -> bytes:
    save(figure, path)  # type: ignore[arg-type]
    return path.read_bytes()


def test_figures_of_a_run_are_those_of_its_columns(run: Run, tmp_path: Path) -> None:
    feature = run.features[1]
    columns = run.columns(feature)
    groups = {name: group.rows.tolist() for name, group in select(columns, 3).items()}
    expected = {
        "energies": energies_figure(
            columns.excitation,
            columns.inhibition,
            columns.activation,
            groups=groups,
            label="after:1@0,4",
            through="relu",
            deviation=float(columns.activation.std()),
        ),
        "groups": groups_figure(
            {name: run_tiles(run, feature, columns, rows) for name, rows in groups.items()},
            label="after:1@0,4",
        ),
    }
    figures = {
        "energies": plot_energies(run, "after:1@0,4", k=3),
        "groups": plot_groups(run, feature, k=3, columns=columns),
    }
    for name, figure in figures.items():
        assert saved(figure, tmp_path / "a.svg") == saved(expected[name], tmp_path / "b.svg")


def test_a_feature_is_named_or_all_are_shown(run: Run) -> None:
    for plot in (plot_energies, plot_groups):
        assert "after:0@3,2" in words(plot(run, "after:0"))
        with pytest.raises(ValueError, match=r"holds 2 features, after:0@3,2, after:1@0,4; name"):
            plot(run)
    figure = plot_exemplars(run, k=2)
    assert {"after:0@3,2", "after:1@0,4", "after"} <= set(words(figure).splitlines())
    shown = iter(pictures(figure))
    for feature in run.features:
        columns = run.columns(feature)
        for choose in (exciting, inhibiting):
            for tile in run_tiles(run, feature, columns, choose(columns, 2).tolist()):
                np.testing.assert_array_equal(next(shown), tile.image)
    with pytest.raises(ValueError, match="holds no 'after:7'"):
        plot_exemplars(run, ["after:7"])


def test_without_any_feature_there_is_no_figure(run: Run) -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        plot_exemplars(run, [])


def test_inversions_are_of_the_tensest_images(run: Run) -> None:
    calls: list[tuple[str, int, int]] = []
    figure = plot_inversions(
        run,
        "after:0",
        network=plain_network(),
        settings=STEPS,
        progress=lambda *call: calls.append(call),
    )
    columns = run.columns(run.features[0])
    indices = tense(columns, 3).tolist()
    assert len(indices) == 3
    deviation = columns.activation.std()
    for index in indices:
        assert in_deviations(float(columns.activation[index] / deviation)) in words(figure)
    assert words(figure).count("not made") + len(pictures(figure)) == 2 + 3 * 5
    # One step an image: twelve accentuations and inversions, two visualisations.
    what = "after:0@3,2: feature visualisation"
    assert calls[-2:] == [(what, 1, 2), (what, 2, 2)]
    assert {total for *_, total in calls[:-2]} == {12}


def test_equal_activations_have_no_deviation(run: Run) -> None:
    columns = run.columns(run.features[0])
    still = Columns(**vars(columns) | {"activation": np.full(30, 2.0, np.float32)})
    assert still.deviation == 1
    figure = plot_energies(run, "after:0", columns=still)
    assert "sd" not in words(figure)
    assert figure.axes[0].collections[0].get_clim() == (-2, 2)


def test_all_figures_are_written_to_a_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    columns_of = Run.columns

    def counted(self: Run, *arguments: object, **named: object) -> Columns:
        read.append(arguments)
        return columns_of(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "columns", counted)
    told: list[tuple[str, int, int]] = []
    paths = write_figures(
        run,
        tmp_path,
        features=run.features,
        k=2,
        network=plain_network(),
        settings=STEPS,
        progress=lambda *call: told.append(call),
    )
    # All figures of a feature share what was read once.
    assert len(read) == 2
    names = ["after-0-3_2", "after-1-0_4"]
    each = [f"{figure}-{name}.png" for name in names for figure in
            ("figure4a", "figure4b-g", "figure5")]  # fmt: skip
    assert [path.name for path in paths] == ["figure2.png", *each]
    for path in paths:
        with Image.open(str(path)) as image:
            assert image.format == "PNG"
    assert [call for call in told if call[0] == "figures"] == [("figures", 1, 2), ("figures", 2, 2)]
    monkeypatch.undo()
    alone = plot_energies(run, run.features[1], k=2)
    assert (tmp_path / "figure4a-after-1-0_4.png").read_bytes() == saved(alone, tmp_path / "x.png")


def test_without_a_network_there_is_no_figure_5(run: Run, tmp_path: Path) -> None:
    paths = write_figures(run, tmp_path, features=run.features[:1], suffix="svg")
    assert [path.name for path in paths] == [
        "figure2.svg", "figure4a-after-0-3_2.svg", "figure4b-g-after-0-3_2.svg",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="figures are png, pdf, svg, not 'gif'"):
        write_figures(run, tmp_path, features=run.features, suffix="gif")
