"""Decoded pixels, kept after they were read for the first time."""
