"""How many images features share."""
