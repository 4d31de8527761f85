"""Simulated NVIDIA GPUs of a lab host (standard library only, Python 3.10 and later)."""
