"""The order of a stream: the images and views of each batch."""
