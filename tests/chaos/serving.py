"""``python -m tests.chaos.serving HOME MONGOD PREFECT APP``: what ``valflow up`` runs, on ports that are given."""

from __future__ import annotations

import sys
from pathlib import Path

from valflow.errors import StackError
from valflow.stack import Ports, up


def main() -> int:
    """Run a stack until a signal comes, or until it gives up."""
    home, mongod, prefect, app = sys.argv[1:]
    try:
        up(
            Path(home),
            database="own",
            ports=Ports(int(mongod), int(prefect), int(app)),
            say=lambda line: print(line, flush=True),
        )
    except StackError as error:
        print(f"valflow: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
