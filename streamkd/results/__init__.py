"""Results of a training run: evaluation and export."""
