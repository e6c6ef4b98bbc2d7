"""Dictionaries of a layer's features: hidden vectors as sums of a few of many directions."""
