"""`python -m pyramid generate | inspect | download | train | evaluate | bench`; see `pyramid.cli`."""

import sys

from pyramid.cli import main

if __name__ == "__main__":
    sys.exit(main())
