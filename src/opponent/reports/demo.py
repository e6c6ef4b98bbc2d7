"""The whole of it, on the embedded network and photographs that come with other packages."""

from pathlib import Path

from opponent.core.progress import Progress, displayed
from opponent.models.catalogue import EMBEDDED
from opponent.models.registry import load
from opponent.reports.report import write_report
from opponent.scan.local import scan_images
from opponent.storage.files import AnyPath
from opponent.synthesis.settings import SynthesisSettings

# A curve that opens upwards, held back by curves that open downwards.
FEATURE = "mixed3b:189"
THROUGH = "mixed3a"
SOURCE = "photos"


@displayed
def run_demo(folder: str | Path, *, progress: Progress | None = None) -> AnyPath:
    """Scan, select, look, invert and report, for one feature.

    Args:
        folder: the run folder, new or to go on with.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The report's path.
    Raises:
        RunError: the folder holds another scan.
        ImportError: scikit-image or scikit-learn, whose photographs are scanned, is missing.
    """
    network = load(EMBEDDED)
    run = scan_images(network, SOURCE, FEATURE, THROUGH, out=folder, progress=progress)
    return write_report(run, network=network, settings=SynthesisSettings(), progress=progress)
