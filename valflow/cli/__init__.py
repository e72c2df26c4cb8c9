"""The command line. Importing it is quick: FiftyOne and Prefect are loaded by the commands that need them."""

from valflow.cli.main import main

__all__ = ["main"]
