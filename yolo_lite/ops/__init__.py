"""Pure functions on boxes, grids and scores."""
