"""What TensorFlow needs of us: reading pipelines, iterators, AutoGraph, a quiet import."""
