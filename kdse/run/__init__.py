"""A run folder: its identity, config, result, log and costs, and how a run goes on in it."""
