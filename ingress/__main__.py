"""`python -m ingress` is the same as the command `ingress`."""

import sys

from ingress.cli import main

if __name__ == "__main__":  # a spawned worker imports this module again, under another name
    sys.exit(main())
