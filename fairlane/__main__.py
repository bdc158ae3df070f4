"""``python -m fairlane``: the command line; it is how the supervisor starts the stages."""

from __future__ import annotations

import sys

from fairlane.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
