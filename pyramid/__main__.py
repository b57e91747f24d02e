"""`python -m pyramid COMMAND …`; see `pyramid.commands.cli`."""

import os
import sys

from pyramid.commands.cli import main

if __name__ == "__main__":
    code = main()
    if code == 130 and "ray" not in sys.modules:  # who pressed Ctrl-C does not wait for libraries to clear up
        os._exit(code)
    sys.exit(code)
