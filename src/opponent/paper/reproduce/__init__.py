"""Every figure of the paper in one page."""
