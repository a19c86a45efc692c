"""``python -m precc`` is the ``precc`` command."""

import sys

from precc.cli import main

if __name__ == "__main__":
    sys.exit(main())
