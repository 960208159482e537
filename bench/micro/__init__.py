"""Single functions: nanoseconds a call, median of repeats. A case calls functions that a test already checks."""
