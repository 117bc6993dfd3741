"""Files that are complete or absent, headers that are checked, JSON: what knows nothing of images."""
