"""Run the tutorial's notebook by Jupyter, and make pictures of its cells as Chromium shows them.

    python docs/make_notebook.py WEIGHTS PHOTOGRAPHS

WEIGHTS are those of inceptionv1-bvlc, PHOTOGRAPHS a folder.
"""

import argparse
import io
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
NOTEBOOK = HERE / "tutorial.ipynb"
WIDTH = 1000


def executed(weights: Path, photographs: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in a folder that has what it names."""
    (folder / weights.name).symlink_to(weights.absolute())
    (folder / "photographs").symlink_to(photographs.absolute())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        # The format of weights is told by the name.
        cell.source = cell.source.replace("bvlc_googlenet.caffemodel", weights.name)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=7200, resources=resources).execute()
    return notebook


def main() -> None:
    """Run the cells and take a picture of each output with its code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("photographs", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        page_file = Path(name) / "notebook.html"
        notebook = executed(given.weights, given.photographs, Path(name))
        page_file.write_text(HTMLExporter(template_name="lab").from_notebook_node(notebook)[0])
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 800})
        page.goto(page_file.as_uri())
        page.wait_for_timeout(500)
        codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell, shown in zip(codes, page.locator(".jp-CodeCell").all(), strict=True):
            for what in cell.metadata.get("tags", []):
                path = HERE / f"notebook-{what}.webp"
                with Image.open(io.BytesIO(shown.screenshot())) as picture:
                    picture.convert("RGB").save(path, quality=82, method=6)
                print(path)
        browser.close()


if __name__ == "__main__":
    main()
