"""From a type in a suite to an Expectation class."""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
import os
import re
import warnings
from types import ModuleType
from typing import Any

from valflow.allowed_imports import check_allowed
from valflow.errors import ConfigError, SuiteError

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@functools.cache
def great_expectations() -> ModuleType:
    """The library, with our own classes registered; the first call takes seconds."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # a labeling run reports to nobody
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports sre_constants
        import great_expectations as gx

        import expectations.custom  # noqa: F401  registers its classes

    # It sets this one to INFO, for news of each temporary folder that it makes.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return gx


def expectation_class(type_name: Any) -> type[Any]:
    """The Expectation class of a type: Great Expectations' name of it, or ``module:Class``.

    Raises:
        SuiteError: there is no such class, or it cannot be used; names the nearest.
    """
    if not isinstance(type_name, str):
        raise SuiteError(f"expected `type: expect_…` or `type: module:Class`; found {type_name!r}")
    if ":" in type_name:
        return _imported_class(type_name)
    known = known_classes()
    if type_name in known:
        return known[type_name]
    close = difflib.get_close_matches(_snake(type_name), known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}?" if close else "see the gallery of Great Expectations"
    raise SuiteError(f"unknown expectation type {type_name!r}; {hint}; a class of your own is `module:Class`")


def known_classes() -> dict[str, type[Any]]:
    """Great Expectations' classes and ours, by type; classes that somebody else registered are left out."""
    great_expectations()
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    classes = {name: get_expectation_impl(name) for name in list_registered_expectation_implementations()}
    ours = ("great_expectations.", "expectations.custom")
    return {name: found for name, found in classes.items() if found.__module__.startswith(ours)}


def is_row_expectation(expectation: type[Any]) -> bool:
    """Whether a class judges rows one by one."""
    great_expectations()
    from great_expectations.expectations import expectation as base

    kinds = (base.ColumnMapExpectation, base.ColumnPairMapExpectation, base.MulticolumnMapExpectation)
    return issubclass(expectation, kinds)


def check_registered(expectation: type[Any], type_name: str) -> None:
    """Make sure that Great Expectations, which looks classes up by name, will find this very class.

    Raises:
        SuiteError: another class has taken the name.
    """
    from great_expectations.expectations.registry import get_expectation_impl

    winner = get_expectation_impl(expectation.expectation_type)
    if winner is not expectation:
        raise SuiteError(
            f"{type_name}: another class of that name is loaded too, {winner.__module__}:{winner.__name__}, "
            "and Great Expectations keeps only one of a name; rename one of them"
        )


def _imported_class(path: str) -> type[Any]:
    if not _IMPORT_PATH.fullmatch(path):
        raise SuiteError(f"expected `type: my_package.my_module:ExpectSomething`; found {path!r}")
    try:
        check_allowed(path)
    except ConfigError as error:
        raise SuiteError("; ".join(error.problems)) from None
    shipped = known_classes()  # before the import, which would replace a class of the same name
    module_name, class_name = path.split(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises is told, not passed on
        reason = f"{type(error).__name__}: {error}"
        raise SuiteError(
            f"cannot import {module_name!r} ({reason}); install the package, or put its folder on PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        close = difflib.get_close_matches(class_name, dir(module), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"looked in {module.__file__}"
        raise SuiteError(f"module {module_name!r} has no {class_name!r}; {hint}")
    from great_expectations.expectations.expectation import Expectation

    if not isinstance(found, type) or not issubclass(found, Expectation):
        raise SuiteError(f"{path}: expected a subclass of Great Expectations' Expectation; found {found!r}")
    if found.is_abstract():
        raise SuiteError(f"{path}: an abstract class; expected one with a map_metric or _validate of its own")
    if shipped.get(found.expectation_type, found) is not found:
        raise SuiteError(f"{path}: a shipped class has that name already; give yours another")
    check_registered(found, path)
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
