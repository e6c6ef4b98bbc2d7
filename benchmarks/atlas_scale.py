"""An atlas' selection, map and grid on many synthetic attribution vectors, and the memory it takes.

    python -m benchmarks.atlas_scale [--images 100000] [--top 10000] [--grid 20] [--channels 256]

Vectors lie around a number of centres, as images of like content do.
"""

import argparse
import resource
import time

import numpy as np

from opponent.atlas.layout import cells_of, largest, lay_out, occupied, to_square, trustworthiness


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--top", type=int, default=10_000)
    parser.add_argument("--grid", type=int, default=20)
    parser.add_argument("--channels", type=int, default=256)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(200, arguments.channels)).astype(np.float32)
    vectors = generator.normal(size=(arguments.images, arguments.channels)).astype(np.float32)
    vectors += centres[generator.integers(len(centres), size=arguments.images)]
    begun = time.perf_counter()
    chosen = largest(np.linalg.norm(vectors, axis=1), arguments.top)
    vectors = vectors[chosen]
    square = to_square(lay_out(vectors, seed=0))
    cells = occupied(cells_of(square, arguments.grid), 6)
    trust = trustworthiness(vectors, square, 10, 0)
    print(
        f"{len(chosen):,} of {arguments.images:,} vectors, {len(cells)} cells of "
        f"{arguments.grid} x {arguments.grid} with 6 images or more, trustworthiness {trust:.3f}; "
        f"{time.perf_counter() - begun:.0f} s, peak memory "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GiB"
    )


if __name__ == "__main__":
    main()
