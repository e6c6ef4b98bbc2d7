"""How many pixels all threads together may be decoding at a time: memory stays bounded."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from PIL import Image

# Pixels where Pillow's limit is switched off.
_UNLIMITED = 2**30


class Budget:
    """Pixels that are handed out, and wait until there are enough.

    Args:
        pixels: how many in all; None is as many as Pillow lets one image have.
    """

    def __init__(self, pixels: int | None = None) -> None:
        self.pixels = pixels
        self._used = 0
        self._changed = Condition()

    @contextmanager
    def held(self, pixels: int) -> Iterator[None]:
        """Hold so many for a while. Who wants more than there are waits until nobody holds any."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + pixels <= self._all)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()

    @property
    def _all(self) -> int:
        return self.pixels or Image.MAX_IMAGE_PIXELS or _UNLIMITED


# That of all threads that decode.
DECODING = Budget()
