"""Which images there are: folders and tables become keys, labels and classes."""
