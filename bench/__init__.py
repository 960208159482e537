"""Benchmarks: `load` beside other proxies, `scale` at 10,000 Ingresses, `soak` under change, `micro` of functions."""
