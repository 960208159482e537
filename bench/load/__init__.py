"""Side-by-side load test: CPU per request, throughput, latency and memory of aioingress and other proxies."""
