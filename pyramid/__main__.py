"""`python -m pyramid COMMAND …`; see `pyramid.commands.cli`."""

import sys

from pyramid.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
