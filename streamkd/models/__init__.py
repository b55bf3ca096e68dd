"""Keras models of either family: loading, heads, preprocessing, precision."""
