"""How an upstream chooses among its endpoints: an algorithm a file, made by `registry`; `ejection` leaves failing
ones out.

Everything here is synchronous and pure but for the counters on `EndpointState`: `now` and `rng` are arguments.
"""
