"""Views: fixed renditions of an image, drawn once, stored and replayed."""
