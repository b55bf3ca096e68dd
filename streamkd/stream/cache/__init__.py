"""Decoded pixels, kept after the first time."""
