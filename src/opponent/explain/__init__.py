"""Why one image, and which channels."""
