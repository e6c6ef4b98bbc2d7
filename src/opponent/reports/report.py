"""The report of a run: one HTML file with plot, images, what was made from them, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.resources import Resources
from jaxtyping import UInt8
from markupsafe import Markup

from opponent.attribution.rules import AttributionRule
from opponent.core.feature import Feature
from opponent.core.pictures import data_uri
from opponent.core.progress import Progress, displayed, silent
from opponent.explain.channels import who
from opponent.explain.completeness import completeness_note
from opponent.explain.crops import Synthetic, Tile, opaque, overlay_scale, run_tiles
from opponent.geometry.through import bottlenecks_before
from opponent.models.network import LOGITS, PIXELS, Network
from opponent.models.registry import photographed
from opponent.plots.inversions import tense_rows, visualisations
from opponent.plots.sides import within_text
from opponent.plots.square import square_figure
from opponent.reports.explanations import driver_values
from opponent.reports.html import drawing, render
from opponent.reports.plot import energy_plot
from opponent.scan.reopen import check_whole, network_of, rule_of
from opponent.selection import Selected, Selection, select
from opponent.storage.columns import Columns
from opponent.storage.files import AnyPath, to_path, write_text
from opponent.storage.lookup import features_of, scan_command
from opponent.storage.run import Run
from opponent.synthesis.settings import SynthesisSettings, not_synthesised

# Dots beyond this number are a seeded sample, so that the file stays small enough to open at once.
DOTS = 2000
# The image on hover, in pixels a side; and how many are decoded between two signs of progress.
_HOVER, _CHUNK = 96, 64
# A photograph in the page, in pixels.
_SHOWN = 240


@displayed
def write_report(
    run: Run,
    out: str | AnyPath | None = None,
    *,
    network: Network | None = None,
    features: Sequence[Feature | str] | None = None,
    k: int = 8,
    selections: Sequence[Selection | str] | None = None,
    settings: SynthesisSettings | None = None,
    rule: AttributionRule | str | None = None,
    progress: Progress | None = None,
) -> AnyPath:
    """Write a run's report.

    Args:
        run: a finished run.
        out: the HTML file; default: report.html in the run folder.
        network: the network that was scanned; default: loaded again.
        features: which of the run's features; default: all of them.
        k: images a group.
        selections: which groups, by name or as objects; default: the built-in six.
        settings: how images are synthesised; default: with the run's seed.
        rule: the rule that the run was scanned by, where it is the user's own.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The file's path.
    Raises:
        RunError: the run is unfinished, its network cannot be loaded, or network or rule are others
            than the run's.
        ValueError: the run does not hold a feature, or `select` refuses k or a selection.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figures 4 and 5; the page is ours.
    """
    check_whole(run, "a report")
    chosen = features_of(run, features)
    network, rule = network_of(run, network), rule_of(run, rule)
    settings = settings or SynthesisSettings(seed=run.manifest.seed)
    sections = []
    for each in chosen:
        columns = run.columns(each)
        section = _Section(
            run=run,
            network=network,
            feature=each,
            columns=columns,
            selected=select(columns, k, selections=selections),
            settings=settings,
            rule=rule,
            progress=progress or silent,
        )
        sections.append(section.values())
    page = render(
        "report.html.j2",
        title=f"What keeps {', '.join(each.label for each in chosen)} silent?",
        resources=Markup(Resources(mode="inline", components=["bokeh"]).render()),
        network=network.name,
        through=run.manifest.through,
        source=run.manifest.explained_by,
        tokens=", ".join(run.manifest.tokens),
        count=f"{len(run.images) - len(run.unreadable()):,}",
        features=sections,
        provenance=_provenance(run, settings),
        unreadable=run.unreadable(),
        scripts=Markup("\n").join(section["script"] for section in sections),
    )
    path = to_path(out) if out is not None else run.folder / "report.html"
    write_text(path, page)
    return path


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One feature's part of the report."""

    run: Run
    network: Network
    feature: Feature
    columns: Columns
    selected: Mapping[str, Selected]
    settings: SynthesisSettings
    rule: AttributionRule
    progress: Progress

    def values(self) -> dict[str, Any]:
        """What the template needs."""
        columns, tiles = self.columns, {}
        for name, group in self.selected.items():
            tiles[name] = run_tiles(self.run, self.feature, columns, group.rows.tolist())
        scale = overlay_scale([tile for each in tiles.values() for tile in each])
        script, plots = self._plots(scale)
        field = self.run.receptive_field(self.feature)
        meaning = None
        if self.feature.layer == LOGITS and self.feature.unit is not None:
            meaning = self.network.class_name(self.feature.unit)
        inversions, no_inversions = self._inversions()
        drivers = who(self.run, self.feature, channels=6, network=self.network)
        return {
            "label": self.feature.label,
            "meaning": meaning,
            "numbers": self._numbers(),
            "warning": self._warning(),
            "plots": plots,
            "script": script,
            "sample": ""
            if len(columns.images) <= DOTS
            else f" ({DOTS:,} of {len(columns.images):,})",
            "groups": self._groups(tiles, scale),
            "square": drawing(square_figure(scale or None)),
            "field": f"{field.height} x {field.width} pixels",
            "inversions": inversions,
            "no_inversions": no_inversions,
            "visualisations": self._visualisations(),
            "drivers": driver_values(drivers.drivers, self._upstream),
            "driven": drivers.about,
            "within": f" {text}." if (text := within_text(drivers.drivers)) else "",
        }

    def _numbers(self) -> list[tuple[str, str]]:
        f, c = self.columns.activation, self.columns.latents_alone
        with_all = self.columns
        return [
            ("of the images fire it", f"{np.mean(f > 0):.1%}"),
            ("excitation, the median", f"{np.median(c.excitation):.3g}"),
            ("inhibition, the median", f"{np.median(c.inhibition):.3g}"),
            ("standard deviation (sd) of the activation", f"{f.std():.3g}"),
            (
                "r of excitation − inhibition with the activation",
                "none" if c.no_r else f"{c.completeness:.3f}",
            ),
            ("sd between them, the mean", f"{c.distance:.2g}"),
            *(
                [("the same with the dictionary's bias and rest", with_all.agreement)]
                if with_all.rest is not None
                else []
            ),
            *(
                (f"mean absolute term of the dictionary's {name}", f"{np.abs(term).mean():.3g}")
                for name, term in (("bias", with_all.bias), ("rest", with_all.rest))
                if term is not None
            ),
        ]

    def _warning(self) -> str | None:
        notes = []
        if reason := self.columns.no_r:
            notes.append(f"There is no correlation of E with the activation: {reason}.")
        if note := completeness_note(self.run, self.network, self.columns):
            notes.append(f"{note}.")
        if (self.columns.activation >= 0).all() and (self.columns.activation == 0).any():
            notes.append(
                "The activation is never negative: it was read after a ReLU, which hides what lies "
                "below zero. Name the layer before it."
            )
        return " ".join(notes) or None

    def _upstream(self, channel: str) -> str | None:
        """The command that scans a channel of the through layer, where there is a layer before."""
        manifest = self.run.manifest
        # A latent is no unit that a scan could name.
        if manifest.through == PIXELS or manifest.dictionary is not None:
            return None
        before = bottlenecks_before(self.network, manifest.through)
        through = before[-1] if before else PIXELS
        return scan_command(self.run.folder, manifest, channel, through=through)

    def _plots(self, scale: float) -> tuple[Markup, list[Markup]]:
        count = len(self.columns.images)
        shown = set(range(count))
        if count > DOTS:
            named = {row for group in self.selected.values() for row in group.rows.tolist()}
            generator = np.random.default_rng(self.run.manifest.seed)
            others = [row for row in generator.permutation(count).tolist() if row not in named]
            shown = named | set(others[: max(0, DOTS - len(named))])
        rows, pictures = sorted(shown), []
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            for tile in run_tiles(self.run, self.feature, self.columns, chunk, shown=_HOVER):
                pictures.append(data_uri(_side_by_side(tile, scale), side=2 * _HOVER, quality=75))
            self.progress(f"{self.feature.label}: images for the plot", len(pictures), len(rows))
        return energy_plot(self.columns, rows, pictures, self.selected, self.feature.label)

    def _groups(self, tiles: Mapping[str, Sequence[Tile]], scale: float) -> list[dict[str, Any]]:
        return [
            {
                "name": name.replace("_", " "),
                "meaning": group.selection.meaning,
                "colour": group.selection.colour,
                "tiles": [
                    {
                        "id": image,
                        "title": photographed(image),
                        "image": data_uri(tile.image, side=_SHOWN),
                        "overlay": _overlaid(tile, scale),
                        "caption": tile.caption,
                    }
                    for image, tile in zip(group.images, tiles[name], strict=True)
                ],
            }
            for name, group in self.selected.items()
        ]

    def _inversions(self) -> tuple[list[list[dict[str, Any]]], str]:
        """Rows of figure 5: the photograph, then accentuation and inversion for either sign."""
        if reason := not_synthesised(self.network):
            return [], f"{reason}."
        rows = tense_rows(
            self.run,
            self.network,
            self.feature,
            self.columns,
            self.settings,
            self.rule,
            self.progress,
        )
        if not rows:
            return [], "No image is tense: none has an activation between -0.5 sd and 0."
        return [
            [
                _cell(row.photo, "tense image"),
                _cell(row.excitatory_accentuation, "excitatory accentuation"),
                _cell(row.excitatory_inversion, "excitatory inversion"),
                _cell(row.inhibitory_accentuation, "inhibitory accentuation"),
                _cell(row.inhibitory_inversion, "inhibitory inversion"),
            ]
            for row in rows
        ], ""

    def _visualisations(self) -> list[dict[str, Any]]:
        if not_synthesised(self.network):
            return []
        both = visualisations(
            self.run, self.network, self.feature, self.columns, self.settings, self.progress
        )
        return [
            _cell(visualisation, name)
            for visualisation, name in zip(both, ("upward", "downward"), strict=True)
        ]


def _cell(shown: Tile | Synthetic | None, alt: str) -> dict[str, Any]:
    if shown is None:
        return {"image": None, "alt": alt, "caption": "nothing does"}
    return {"image": data_uri(opaque(shown), side=320), "alt": alt, "caption": shown.caption}


def _side_by_side(tile: Tile, scale: float) -> UInt8[np.ndarray, "h w 3"]:
    return tile.image if tile.excitation is None else np.hstack([tile.image, tile.overlaid(scale)])


def _overlaid(tile: Tile, scale: float) -> str | None:
    return None if tile.excitation is None else data_uri(tile.overlaid(scale), side=_SHOWN)


def _dictionary_facts(run: Run) -> list[tuple[str, str]]:
    """Which dictionary S is of, if of one."""
    record = run.manifest.dictionary
    if record is None:
        return []
    what = f"{record.latents:,} latents, {record.kind}"
    return [("dictionary", what), ("dictionary (SHA-256)", record.sha256)]


def _provenance(run: Run, settings: SynthesisSettings) -> list[tuple[str, str]]:
    m = run.manifest
    prepared = run.preprocessing
    transforms, described = settings.transforms, settings.describe()
    objective = described.get("objective", f"dot * cos^{settings.power:g}")
    return [
        ("network", m.network.name),
        ("weights (SHA-256)", m.network.weights_sha256),
        (
            "input",
            f"{prepared.size[0]} x {prepared.size[1]} pixels, mean "
            f"{prepared.mean}, sd {prepared.std}",
        ),
        ("features", ", ".join(feature.label for feature in run.features)),
        ("through", f"{m.explained_by}, {' x '.join(map(str, m.through_shape))}"),
        *_dictionary_facts(run),
        ("images", f"{m.images.count:,} from {m.images.source}"),
        ("rule of attribution", m.rule),
        ("image list (SHA-256)", m.images.sha256),
        ("seed", str(m.seed)),
        (
            "synthesis",
            f"{settings.steps} steps, {described['parameterisation']}, {objective}, "
            f"boxes of {transforms.smallest:g} to {transforms.largest:g}, "
            f"{transforms.draws} draws a step",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in m.versions.items())),
        ("run folder", str(run.folder.absolute())),
    ]
