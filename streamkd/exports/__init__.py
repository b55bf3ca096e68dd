"""Exports: a student as a file for other programs, checked against the original."""
