"""What a position depends on, and the part of an image that is enough to compute it."""
