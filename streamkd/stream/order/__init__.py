"""Which images and views a batch shows."""
