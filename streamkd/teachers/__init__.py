"""Anything that answers images with logits, and the pass that asks it once."""
