"""What drives a feature: rules of attribution and their results."""
