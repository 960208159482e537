"""How exactly limits are kept: see `__main__`."""
