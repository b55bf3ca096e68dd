"""The logit store: what the teacher said, kept by key and view. No TensorFlow in this room."""
