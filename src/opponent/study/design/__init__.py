"""A study before its first participant: which trials it has, and its folder."""
