"""What is to be said of a scan through a dictionary before its numbers are believed."""

import numpy as np
import torch

from opponent.core.errors import RunError
from opponent.models.network import Network
from opponent.scan.reopen import dictionary_of
from opponent.storage.run import Run


def dictionary_notes(run: Run, network: Network) -> list[str]:
    """Sentences on what does not fit between a scan and its dictionary.

    Args:
        run: a finished scan.
        network: the network that was scanned.
    Returns:
        None for a scan in channels, or where nothing is wrong: that latents are silent in images,
        or that the dictionary says that it was learnt from other weights.
    """
    try:
        dictionary = dictionary_of(run)
    except RunError as error:  # a note is no reason to lose what was scanned
        return [str(error)]
    if dictionary is None:
        return []
    notes = list[str]()
    weights = dictionary.provenance.get("weights_sha256")
    # Dictionaries are learnt in single precision; the digest is another in other types.
    alike = network.dtype != torch.float32 or weights == network.weights_sha256()
    if isinstance(weights, str) and not alike:
        notes.append(
            f"the dictionary was learnt from other weights ({weights[:12]}…, of "
            f"{dictionary.provenance.get('network')}) than those of {network.name}: what it leaves "
            "is not what was measured"
        )
    for feature in run.features:
        columns = run.columns(feature, maps=False)
        apart = [x for x in (columns.bias, columns.rest) if x is not None]
        # Where bias and rest are 0 as well, no path to the feature is open.
        beside = np.any([x != 0 for x in apart], axis=0)
        off = int(((columns.l1 == 0) & beside).sum())
        if off == len(columns):
            notes.append(
                f"no latent of the dictionary is on where {feature.label} looks, in any image: "
                "excitation and inhibition are 0, and all is in the bias's and the rest's terms"
            )
        elif off:
            notes.append(f"{feature.label}: in {off:,} of {len(columns):,} images no latent is on")
    return notes
