"""Many hosts, each with a certificate of its own: what they cost, and whether renewing them disturbs anybody."""
