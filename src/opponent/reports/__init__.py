"""Pages that work offline: one HTML file each, with everything inside."""
