"""The logit store: the teacher's answers, kept by key and view. No TensorFlow in this room."""
