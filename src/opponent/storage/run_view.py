"""A run as notebooks show it: what was scanned, and its images by energies."""

from opponent.core import notebook
from opponent.storage.run import Run

# A run of more images than this is not drawn, for that reads all of its rows.
_DRAWN = 50_000


def run_html(run: Run) -> str:
    """The facts of a run and, where it is finished and not large, a plot of each feature."""
    record, done = run.manifest, run.shard_count - len(run.missing())
    kept = "" if record.kept is None else f" kept of {record.kept.images:,},"
    facts = [
        ("network", f"{record.network.name}, weights {record.network.weights_sha256[:12]}…"),
        ("through", f"{record.explained_by}, {' x '.join(map(str, record.through_shape))}"),
        ("images", f"{record.images.count:,}{kept} from {record.images.source}"),
        ("rule of attribution", record.rule),
        ("shards", f"{done:,} of {run.shard_count:,}"),
    ]
    shown = []
    if done == run.shard_count and record.images.count <= _DRAWN:
        for feature in run.features[: notebook.PICTURES]:
            columns = run.columns(feature, maps=False)
            dots = notebook.scatter(columns.excitation, columns.inhibition, columns.activation)
            shown.append((dots, f"{feature.label}: inhibition against excitation"))
    return notebook.section(
        repr(run),
        notebook.facts(facts),
        notebook.pictures(shown, total=len(run.features) if shown else 0),
    )
