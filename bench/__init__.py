"""Benchmarks: `load` beside other proxies, `scale` with 10,000 Ingresses, `soak` under change, `micro` for functions."""
