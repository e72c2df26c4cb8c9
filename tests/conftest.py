"""What all tests share: a MongoDB and a Prefect home of their own, and, once per session, a real stack.

The variables must be in place before fiftyone or prefect is imported anywhere, so this happens while pytest
configures itself, not in a fixture. Nothing here can reach the databases of the user who runs the tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests import killing
from valflow.errors import StackError
from valflow.mongod import Mongod

if TYPE_CHECKING:
    from valflow.stack import Stack

ROOT = Path(__file__).resolve().parents[1]
# HYPOTHESIS_PROFILE=long for thousands of steps, other ones each time.
_ALL: Any = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile(
    "short", max_examples=12, stateful_step_count=25, derandomize=True, **_ALL
)
hypothesis.settings.register_profile(
    "long", max_examples=150, stateful_step_count=50, print_blob=True, **_ALL
)
# Says at once that something differs, without looking for the shortest history that shows it.
_FAST = [phase for phase in hypothesis.Phase if phase.name not in ("shrink", "explain")]
hypothesis.settings.register_profile("fast", max_examples=40, stateful_step_count=40, phases=_FAST, **_ALL)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
FOLDER = pytest.StashKey[Path]()
MONGOD = pytest.StashKey[Mongod]()


def pytest_configure(config: pytest.Config) -> None:
    for name in list(os.environ):
        if name.startswith(("FIFTYONE_", "PREFECT_", "VALFLOW_")):
            del os.environ[name]
    folder = config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="valflow-tests-"))
    try:
        mongod = Mongod(folder / "db", cache_gb=0.5)
        mongod.start()
    except StackError as error:
        pytest.exit(f"The tests need a mongod of their own. {error}", returncode=1)
    config.stash[MONGOD] = mongod
    killing.register()
    os.environ.update(mongod.environment)
    os.environ.update(
        {
            "DO_NOT_TRACK": "1",
            "FIFTYONE_CONFIG_PATH": str(folder / "fiftyone" / "config.json"),
            "FIFTYONE_DEFAULT_DATASET_DIR": str(folder / "fiftyone" / "datasets"),
            "FIFTYONE_DO_NOT_TRACK": "true",
            "FIFTYONE_SHOW_PROGRESS_BARS": "false",
            "MPLBACKEND": "Agg",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "VALFLOW_HOME": str(folder / "home"),
        }
    )
    (folder / "home").mkdir()


def pytest_unconfigure(config: pytest.Config) -> None:
    if MONGOD in config.stash:
        config.stash[MONGOD].stop()
    if FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.fixture(scope="session")
def mongod(request: pytest.FixtureRequest) -> Mongod:
    """The session's own MongoDB; FiftyOne already uses it."""
    return request.config.stash[MONGOD]


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A real Prefect server, worker and FiftyOne App on the session's MongoDB, with a home of their own.

    It serves `label-dataset` and, for tests of the machinery, `ask-person`. See ``in_stack``.
    """
    from valflow.schedules import DEPLOYMENTS, Deployment
    from valflow.stack import Stack

    home = request.config.stash[FOLDER] / "stack"
    home.mkdir()
    shutil.copy(ROOT / "tests" / "ask_person.py", home)
    ask_person = Deployment(flow="ask-person", name="ask-person", entrypoint="ask_person.ask_person")
    # Ten nights of a daily schedule; Prefect plans only three ahead otherwise.
    temporary = home / "temporary"
    temporary.mkdir()
    env = {"PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "10", "TMPDIR": str(temporary)}
    with Stack(home, database="default", deployments=(*DEPLOYMENTS, ask_person), env=env) as stack:
        yield stack


@pytest.fixture
def in_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The stack, with this process told to use it."""
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    return stack
