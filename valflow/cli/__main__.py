"""`python -m valflow.cli`: the command line without an installed script."""

import sys

from valflow.cli.main import main

sys.exit(main())
