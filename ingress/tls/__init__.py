"""TLS as the data plane speaks it: the first message read before anything is decided, contexts by content, a transport of our own (docs/adr/0005)."""
