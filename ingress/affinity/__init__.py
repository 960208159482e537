"""Which endpoint a client or session belongs to, as endpoint keys and hash keys: no I/O, no clock, no live objects."""
