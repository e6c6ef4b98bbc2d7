"""Commands for the paper's experiments: when the method may be believed."""
