"""What everything else rests on: features, boxes, sides, errors, progress, text."""
