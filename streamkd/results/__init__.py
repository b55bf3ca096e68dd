"""Results of a training run: evaluation, and repairs of the last layer."""
