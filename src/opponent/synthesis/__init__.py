"""Images made to excite or inhibit a feature."""
