"""Drive that superposition brings about: toy models, and which images features share."""
