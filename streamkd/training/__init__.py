"""Trains a student: step, loop, optimizers, callbacks."""
