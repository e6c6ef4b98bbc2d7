"""Networks, their layers by name, and one pass through them."""
