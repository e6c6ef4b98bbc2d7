"""The parsers under atheris, which looks for bytes that take them somewhere new.

    pip install atheris
    python -m benchmarks.parsers caffe --seconds 600

Each reads what the fuzzer makes up; what it raises must be what a command says in one line.
`--list` names the parsers.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-not-found]
import torch  # noqa: F401

with atheris.instrument_imports(
    include=["opponent.core", "opponent.images", "opponent.models", "opponent.storage"]
):
    import opponent
    from opponent.__main__ import _expected
    from opponent.core.feature import Feature
    from opponent.images.archives import archive_entries
    from opponent.images.decode import load_image, shape_of
    from opponent.images.fit import Fit
    from opponent.images.imageset import ImageEntry
    from opponent.models.caffe import read_caffemodel
    from opponent.storage.manifest import read_manifest

FIT = Fit(size=(4, 4))
DRAFT = Fit(size=(2, 3), draft=True, largest=10**6)
BANDS = Fit(size=(4, 4), channels=2, value_range=(0, 9))


def _file(name: str, data: bytes) -> Path:
    path = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}-{name}"
    path.write_bytes(data)
    return path


def _image(data: bytes) -> None:
    path = _file("image.bin", data)
    for fit in (FIT, DRAFT, BANDS):
        load_image(ImageEntry(id="x", path=path), fit)
    shape_of(ImageEntry(id="x", path=path, box=(0, 0, 1, 1)))


def _archive(data: bytes, suffix: str) -> None:
    for entry in archive_entries([_file(f"archive{suffix}", data)])[:4]:
        load_image(entry, FIT)


def _manifest(data: bytes) -> None:
    manifest = read_manifest(_file("manifest.json", data))
    json.loads(manifest.to_json())
    manifest.digest()


PARSERS: dict[str, Callable[[bytes], object]] = {
    "caffe": lambda data: read_caffemodel(_file("weights.caffemodel", data)),
    "image": _image,
    "tar": lambda data: _archive(data, ".tar"),
    "zip": lambda data: _archive(data, ".zip"),
    "manifest": _manifest,
    "npy": lambda data: opponent.Directions.load(_file("directions.npy", data)),
    "safetensors": lambda data: opponent.Directions.load(_file("directions.safetensors", data)),
    "feature": lambda data: Feature.parse(data.decode("utf-8", "surrogateescape")),
}


def main() -> None:
    """Fuzz one parser for some time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parser", choices=PARSERS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seeds", type=Path, help="a folder of files to begin with")
    options = parser.parse_args()
    parse, tried, refused = PARSERS[options.parser], 0, 0

    def once(data: bytes) -> None:
        nonlocal tried, refused
        tried += 1
        try:
            parse(data)
        except Exception as error:
            if not _expected(error) or len(str(error).splitlines()) > 1:
                raise
            refused += 1

    def tell() -> None:
        time.sleep(options.seconds)
        print(
            f"{options.parser}: {tried:,} inputs, {refused:,} refused, no other error", flush=True
        )
        os._exit(0)

    threading.Thread(target=tell, daemon=True).start()
    words = [sys.argv[0], "-timeout=10", "-rss_limit_mb=4096", "-verbosity=0"]
    atheris.Setup([*words, *([str(options.seeds)] if options.seeds else [])], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
