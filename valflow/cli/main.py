"""Entry point: parse, run one command, turn errors into one readable paragraph and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from valflow import homes
from valflow.cli.parser import build_parser
from valflow.errors import (
    AuditError,
    ConfigError,
    RunNotFound,
    SelectionError,
    SuiteError,
    ValflowError,
)
from valflow.markup import for_terminal
from valflow.quiet import be_quiet

DONE, REFUSED, BAD_INPUT = 0, 1, 2
_BAD_INPUT_ERRORS = (ConfigError, RunNotFound, SelectionError, AuditError, SuiteError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, awaiting review, or skipped; 1 the run failed or was refused; 2 bad input.
    """
    options = build_parser().parse_args(arguments)
    be_quiet()
    # Models, suites and checks of the user's own are imported from where the command is given.
    sys.path.insert(0, os.getcwd())
    try:
        homes.join(homes.home())
        # Prefect and FiftyOne print what they like; with --json, stdout carries one document and nothing else.
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            result = options.command(options)
    except ValflowError as error:
        return _report(error, options, BAD_INPUT if isinstance(error, _BAD_INPUT_ERRORS) else REFUSED)
    except KeyboardInterrupt:
        print("interrupted; what is recorded stays, the same command continues", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw: still one paragraph, not a traceback
        return _report(error, options, REFUSED)
    text = json.dumps(result.document, ensure_ascii=False, default=str) if options.json else result.text
    try:
        if text:
            print(text if options.json else for_terminal(text), flush=True)
    except BrokenPipeError:  # `valflow runs | head`: the rest is not wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(result.exit_code)


def _report(error: BaseException, options: Any, exit_code: int) -> int:
    if options.debug:
        traceback.print_exception(error, file=sys.stderr)
    known = isinstance(error, ValflowError)
    message = str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())}"
    if options.json:
        document: dict[str, Any] = {"error": message, "kind": type(error).__name__}
        if isinstance(error, ConfigError):
            document["problems"] = error.problems
        print(json.dumps(document, ensure_ascii=False))
    hint = "" if known or options.debug else " (--debug shows where)"
    print(for_terminal(f"valflow: {message}{hint}"), file=sys.stderr)
    return exit_code
