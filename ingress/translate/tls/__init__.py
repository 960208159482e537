"""TLS of Ingresses, as pure decisions: which Secret serves which host, and who has to show a certificate.

Every fault is a verdict, costs the hosts that named the Secret, and falls back to the default certificate. No message holds any part of a
private key.
"""
