"""Batches whose images come from the pixel cache, or from their files."""
