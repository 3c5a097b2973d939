"""`python -m bds` is the command line."""

import sys

from bds.cli import main

if __name__ == "__main__":
    sys.exit(main())
