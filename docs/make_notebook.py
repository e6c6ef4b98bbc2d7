"""Make the picture of what results look like in a notebook: cells run by Jupyter, seen by Chromium.

make figures
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
WIDTH = 1000
CELLS = {
    "attribution": """\
network = opponent.load("inceptionv1-mini")
photographs = opponent.open_images("photos")
result = opponent.attribute(network, photographs[:4], "mixed3b:168", "mixed3a")
result""",
    "run": """\
run = opponent.scan_images(network, photographs, "mixed3b:168", "mixed3a", out="demo")
run""",
    "columns": "run.columns()",
    "select": 'opponent.select(run, k=3)["tense"]',
    "synthesis": """\
tensest = opponent.select(run, k=2)["tense"].images
chosen = [photographs.find(image) for image in tensest]
opponent.invert(network, chosen, "mixed3b:168", "mixed3a", side="excitation")""",
    "atlas": """\
settings = opponent.AtlasSettings(grid=8, top=400, min_images=3, steps=40)
opponent.make_atlas(run, network=network, settings=settings)""",
    "why": """\
opponent.why(network, chosen[0], "mixed3b:168", "mixed3a", run=run)""",
    "who": "opponent.who(run, channels=5)",
}


def executed() -> nbformat.NotebookNode:
    """The notebook with its outputs."""
    start = "import opponent"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in (start, *CELLS.values())]
    )
    NotebookClient(
        notebook, timeout=1200, resources={"metadata": {"path": str(HERE.parent)}}
    ).execute()
    return notebook


def main() -> None:
    """Run the cells and take a picture of each output with its code."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        page_file = Path(name) / "notebook.html"
        notebook = executed()
        page_file.write_text(HTMLExporter(template_name="lab").from_notebook_node(notebook)[0])
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 800})
        page.goto(page_file.as_uri())
        page.wait_for_timeout(500)
        cells = page.locator(".jp-CodeCell").all()[1:]
        for what, cell in zip(CELLS, cells, strict=True):
            path = HERE / f"notebook-{what}.png"
            cell.screenshot(path=path)
            with Image.open(path) as picture:
                picture.convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)
            print(path)
        browser.close()


if __name__ == "__main__":
    main()
