"""The GradientTape loop: step, epochs, checkpoints, logs."""
