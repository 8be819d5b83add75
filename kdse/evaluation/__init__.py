"""Evaluation: test items, the systems that enhance them, and their scores, kept as they come in."""
