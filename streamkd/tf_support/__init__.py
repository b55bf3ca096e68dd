"""TensorFlow's plumbing: reading pipelines, iterators, AutoGraph, a quiet import."""
