"""The machine kdse runs on: atomic files, file locks, child processes, the cache."""
