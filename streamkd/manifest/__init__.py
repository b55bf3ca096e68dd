"""Lists of images: folders and tables become keys, labels and classes."""
