"""Where images come from, and how they are decoded and batched."""
