"""Training: the pieces of `kdse fit` that follow Lightning."""
