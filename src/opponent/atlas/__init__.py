"""The feature attribution atlas."""
