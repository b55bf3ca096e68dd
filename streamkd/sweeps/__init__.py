"""Several students from one stream: the grid, the shared batches, the choice."""
