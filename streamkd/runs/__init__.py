"""The files of a run: checkpoints, its directory, its configuration."""
