"""One pass over many images, into a run folder."""
