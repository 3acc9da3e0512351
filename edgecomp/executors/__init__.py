"""Where work runs. One file an executor."""
