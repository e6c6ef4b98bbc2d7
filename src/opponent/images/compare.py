"""Images that are known, compared with what lies there now."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from opponent.core.errors import Changed, Unreadable
from opponent.core.progress import Progress
from opponent.images.content import changed
from opponent.images.decode import digest_of
from opponent.images.imageset import ImageEntry

# Images that are compared before progress is told again.
_AT_ONCE = 256


def refuse_changed(entries: Sequence[ImageEntry], progress: Progress) -> None:
    """Compare images with what they are known to have contained.

    Args:
        entries: the images, with their contents where these are known. One that cannot be opened
            any more is left to those who need it.
        progress: called with 'comparing images', the images done and all, where they are many.
    Raises:
        Changed: one has another content under its name; the message names it.
    """
    # Of a photograph with many crops, the file is looked at once.
    known = [entry for entry in entries if entry.content is not None]
    once = list({(x.path, x.member, x.path is None and x.id): x for x in known}.values())
    with ThreadPoolExecutor() as threads:
        for first in range(0, len(once), _AT_ONCE):
            if len(once) > _AT_ONCE:
                progress("comparing images", first, len(once))
            part = once[first : first + _AT_ONCE]
            others = threads.map(_is_other, part)
            names = [x.where for x, other in zip(part, others, strict=True) if other]
            if names:
                raise Changed(changed(names))


def _is_other(entry: ImageEntry) -> bool:
    try:
        digest_of(entry)
    except Changed:
        return True
    except Unreadable:
        return False
    return False
