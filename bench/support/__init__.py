"""What the benchmarks share: processes, manifests, an HTTP client and backend, figures and tables. Linux only."""
