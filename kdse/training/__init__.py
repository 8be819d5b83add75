"""Training a run: its command line, callbacks, loggers, checkpoint files, and stopping it."""
