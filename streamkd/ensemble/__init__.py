"""Several teachers as one: how their answers are combined."""
