"""The program `bds`: the command line, and an end at once where it was interrupted."""

import os
import sys


def run() -> None:
    """Ends the process with the command's exit code."""
    try:
        from bds.cli import main

        code = main()
    except KeyboardInterrupt:  # while the command line is being loaded
        code = 130
    if code > 128:
        # Everything was given back by now. An orderly end of the interpreter takes seconds to free torch and Ray, whose
        # threads may crash it meanwhile.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
