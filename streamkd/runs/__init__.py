"""What a run keeps on disk: checkpoints, its directory, its configuration."""
