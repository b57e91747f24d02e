"""`python -m pyramid COMMAND …`; see `pyramid.cli`."""

import sys

from pyramid.cli import main

if __name__ == "__main__":
    sys.exit(main())
