"""`python -m pyramid COMMAND …`; see `pyramid.commands.cli`."""

import os
import sys


def main() -> int:
    """The exit code; 130 for a Ctrl-C also while the program is still being read."""
    try:
        from pyramid.commands.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    code = main()
    if code == 130 and "ray" not in sys.modules:  # who pressed Ctrl-C does not wait for libraries to clear up
        os._exit(code)
    sys.exit(code)
