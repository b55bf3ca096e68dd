"""What came of it: evaluation and export."""
