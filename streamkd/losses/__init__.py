"""Distillation losses, all in log space and float32."""
