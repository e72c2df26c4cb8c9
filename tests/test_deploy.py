"""deploy/compose.yaml: valid by its schema, closed to other machines, without a secret of everybody's, and true.

There is no Docker here. What its services run is run all the same (the last test): the same commands with the same
variables and the same health checks, as processes instead of containers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.postgres import Postgres
from deploy.replica_set import ReplicaSet
from valflow import __version__, prefect_api
from valflow.guard import Guard
from valflow.processes import Child, free_port
from valflow.review_app import plugin_folder, version_in
from valflow.schedules import POOL
from valflow.worker import heartbeats

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy"
TEXT = (FOLDER / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("valflow:")]
ENDS = {"deployments", "cli"}  # services that do something and end
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:?[-?])([^}]*))?\}")
SECRET = re.compile(r"PASSWORD|AUTH|KEY|LOGIN|SECRET")


def example() -> dict[str, str]:
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def pins() -> dict[str, str]:
    return dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


# -- the schema


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "tests" / "compose-spec" / "compose-spec.json").read_text())
    return found


def test_it_is_valid_by_the_compose_specification() -> None:
    validator = jsonschema.Draft7Validator(schema())
    assert [f"{list(e.path)}: {e.message[:200]}" for e in validator.iter_errors(COMPOSE)] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("services", "worker", "helthcheck"), {}),  # misspelt
        (("services", "prefect", "ports"), "4200"),  # no list
        (("services", "postgres", "restart"), ["always"]),
        (("volume",), {}),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_the_schema_finds_mistakes(place: tuple[str, ...], value: Any) -> None:
    wrong = yaml.safe_load(TEXT)
    inner = wrong
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert list(jsonschema.Draft7Validator(schema()).iter_errors(wrong))


# -- what no schema knows


def test_every_image_is_pinned() -> None:
    images = {service["image"] for service in SERVICES.values()}
    base = re.findall(r"^FROM (\S+)", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    for image in [*images, *base]:
        # A plain name, without a host, and a version down to the last digit.
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z-]+)?", image), image
    assert f"valflow:{__version__}" in images
    (python,) = base
    assert python.startswith("python:3.11.")


def test_versions_are_those_of_the_constraints() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    assert re.search(r"pip install \S+ --constraint constraints\.txt", dockerfile)
    assert not re.findall(r"pip install[^\n]*[=<>]=", dockerfile)  # no second list of versions
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert deployments["prefect-version"] == pins()["prefect"]
    import fiftyone.constants as foc
    from packaging.version import Version

    mongo = SERVICES["mongodb"]["image"].split(":")[1].split("-")[0]
    assert Version(mongo) >= foc.MONGODB_MIN_VERSION


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_published_is_published_on_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    assert SERVICES[name].get("network_mode") is None  # "host" would publish everything


@pytest.mark.parametrize("name", SERVICES)
def test_every_volume_is_declared_or_a_folder_that_must_be_named(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = VARIABLE.sub("VARIABLE", volume).split(":")[0]
        assert source in COMPOSE["volumes"] or volume.startswith("${"), volume


def test_every_volume_is_used() -> None:
    used = {v.split(":")[0] for service in SERVICES.values() for v in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) <= used
    kept = SERVICES["mongodb"]["volumes"] + SERVICES["postgres"]["volumes"]
    assert any(v.endswith(":/data/db") for v in kept)
    assert any(v.endswith(":/var/lib/postgresql/data") for v in kept)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_back_and_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    if name in ENDS:
        assert service["restart"] in ("no", "on-failure")
        return
    assert service["restart"] == "unless-stopped"
    assert (
        "healthcheck" in service or name == "caretaker"
    )  # it listens nowhere, and ends where it cannot work


def test_what_is_waited_for_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"
            else:
                assert other in ENDS, f"{name} waits for the end of {other}"


def test_there_are_two_workers() -> None:
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert "container_name" not in SERVICES["worker"]  # two could not have it


def test_no_secret_has_a_default() -> None:
    used = VARIABLE.findall(re.sub(r"^ *#.*$", "", TEXT, flags=re.MULTILINE))
    for name, how, _ in used:
        if SECRET.search(name):
            assert how == ":?", f"{name} may be left out or empty"  # `?` alone lets an empty one pass
    for name, value in example().items():
        assert value == "", f"{name} has a value in .env.example"
    named = {name for name, _, _ in used} | {s["environment"] for s in COMPOSE["secrets"].values()}
    assert named == set(example())


def test_a_filled_in_file_is_not_for_git() -> None:
    done = subprocess.run(["git", "check-ignore", "deploy/.env"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a git clone")
    assert done.returncode == 0


def test_servers_are_secured() -> None:
    login = "${PREFECT_SERVER_API_AUTH_STRING:?"
    assert SERVICES["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith(login)
    assert SERVICES["app"]["environment"]["VALFLOW_APP_LOGIN"].startswith(login)
    for name in ("deployments", "worker", "caretaker", "app", "cli"):
        assert SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"].startswith(login)
    assert "--keyFile" in SERVICES["mongodb"]["command"]


@cache
def known_to_valflow() -> set[str]:
    sources = [p for top in ("valflow", "flows", "tasks", "plugin") for p in (ROOT / top).rglob("*.py")]
    return {name for p in sources for name in re.findall(r"\bVALFLOW_[A-Z_]+", p.read_text())}


def known_to_prefect() -> set[str]:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_valid_setting_names

    return set(_get_valid_setting_names(Settings))


def known_to_fiftyone() -> set[str]:
    import fiftyone as fo

    return {f"FIFTYONE_{name.upper()}" for name in fo.config.attributes()}


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_known_to_somebody(name: str) -> None:
    variables = set(SERVICES[name].get("environment", {}))
    variables |= set(
        re.findall(r"\b((?:VALFLOW|PREFECT|FIFTYONE)_\w+)=", (FOLDER / "Dockerfile").read_text())
    )
    assert variables - known_to_valflow() - known_to_prefect() - known_to_fiftyone() == set()


@pytest.mark.slow
def test_options_of_the_worker_exist() -> None:
    command = SERVICES["worker"]["command"]
    assert command[:5] == ["prefect", "worker", "start", "--pool", POOL]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for option in (word for word in command if word.startswith("--")):
        assert f"{option} " in done.stdout


def test_the_other_containers_may_address_the_server() -> None:
    environment = SERVICES["prefect"]["environment"]
    guard = Guard(lambda *_: None, hosts=environment["VALFLOW_ALLOWED_HOSTS"].split(","))  # type: ignore[arg-type,return-value]
    host = SERVICES["worker"]["environment"]["PREFECT_API_URL"].split("/")[2]
    headers = {"host": host, "content-type": "application/json", "content-length": "2"}
    assert guard.objection("POST", headers) is None


def copied_into_the_image() -> Iterator[str]:
    for line in re.findall(r"^COPY (.+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE):
        yield from line.split()[:-1]


def test_the_image_gets_what_the_wheel_is_made_of() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    places = project["tool"]["setuptools"]["package-dir"]
    folders = {places.get(p, p).split(".")[0] for p in project["tool"]["setuptools"]["packages"]}
    needed = folders | {"pyproject.toml", "constraints.txt", project["project"]["readme"], "LICENSE"}
    assert set(copied_into_the_image()) == needed
    allowed = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} == needed


# -- other types of work pools


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_job_variables_are_those_of_the_pool(kind: str) -> None:
    variables = json.loads((FOLDER / f"{kind}-job.json").read_text())
    import prefect

    # What the server itself checks them against, when a deployment is made.
    shipped = Path(prefect.__file__).parent / "server" / "api" / "collections_data" / "views"
    known = json.loads((shipped / "aggregate-worker-metadata.json").read_text())[f"prefect-{kind}"][kind]
    schema = known["default_base_job_configuration"]["variables"]
    jsonschema.validate(variables, {**schema, "additionalProperties": False})
    assert variables["image"] == f"valflow:{__version__}"
    environment = set(variables["env"])
    assert environment - known_to_valflow() - known_to_prefect() - known_to_fiftyone() == set()
    assert {"VALFLOW_HOME", "FIFTYONE_DATABASE_URI", "VALFLOW_ALLOWED_MODELS"} <= environment


@pytest.mark.parametrize("page", ["deployment.md", "scaling.md"])
def test_settings_of_prefect_on_the_pages_exist(page: str) -> None:
    named = set(re.findall(r"\bPREFECT_[A-Z_]+\b", (ROOT / "docs" / page).read_text()))
    assert named
    assert named - known_to_prefect() == set()


# -- for real


@dataclass
class Containers:
    """The services of our image as processes: names of other containers become addresses of this machine."""

    folder: Path
    postgres: Postgres
    mongodb: ReplicaSet
    ports: dict[str, int]

    @property
    def login(self) -> str:
        return "ann:secret-of-this-test"

    def child(self, name: str) -> Child:
        service = SERVICES[name]
        return Child(
            name,
            self.command(name),
            self.folder / f"{name}.log",
            lambda: self.is_healthy(service["healthcheck"]["test"]) if "healthcheck" in service else True,
            env=self.environment(name),
            cwd=self.folder,
        )

    def command(self, name: str) -> list[str]:
        words = [
            self.here(word) for word in [*SERVICES[name].get("entrypoint", []), *SERVICES[name]["command"]]
        ]
        interpreter = {"python": [], "prefect": ["-m", "prefect"], "valflow": ["-m", "valflow.cli"]}[words[0]]
        return [sys.executable, *interpreter, *words[1:]]

    def environment(self, name: str) -> dict[str, str | None]:
        given = {key: self.here(value) for key, value in SERVICES[name].get("environment", {}).items()}
        image = {"HOME": str(self.folder), "PREFECT_HOME": str(self.folder / name), "PYTHONPATH": str(ROOT)}
        image["FIFTYONE_PLUGINS_DIR"] = str(self.folder / "plugins")
        image["FIFTYONE_DATABASE_VALIDATION"] = (
            "false"  # the MongoDB of these tests is older than the image's
        )
        image["PREFECT_WORKER_WEBSERVER_PORT"] = str(self.ports["8080"])
        stale: dict[str, str | None] = dict.fromkeys(
            key for key in os.environ if key.startswith(("FIFTYONE_", "PREFECT_", "VALFLOW_"))
        )
        return {**stale, **image, **given}

    def here(self, text: str) -> str:
        values = {
            "LABELING": str(self.folder),
            "MONGO_PASSWORD": self.mongodb.uri.split(":")[2].split("@")[0],
            "POSTGRES_PASSWORD": self.postgres.url.split(":")[2].split("@")[0],
            "PREFECT_SERVER_API_AUTH_STRING": self.login,
            "VALFLOW_ALLOWED_MODELS": "",
            "VALFLOW_REVIEWER": "ann",
        }
        text = VARIABLE.sub(lambda found: values[found[1]], text).replace("$$", "$")
        text = text.replace("0.0.0.0", "127.0.0.1")
        text = text.replace("@mongodb:27017", f"@127.0.0.1:{self.mongodb.port}")
        text = text.replace("@postgres:5432", f"@127.0.0.1:{self.postgres.port}")
        text = text.replace("//prefect:4200", "//127.0.0.1:4200")
        for usual, free in self.ports.items():
            text = re.sub(rf"(?<=127\.0\.0\.1:){usual}\b|^{usual}$", str(free), text)
        return text

    def is_healthy(self, test: list[str]) -> bool:
        words = shlex.split(test[1]) if test[0] == "CMD-SHELL" else test[1:]
        assert words[0] == "python"
        command = [sys.executable, *(self.here(word) for word in words[1:])]
        return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


@pytest.fixture
def containers() -> Iterator[Containers]:
    with tempfile.TemporaryDirectory(prefix="valflow-tests-") as place:
        folder = Path(place)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        postgres = Postgres(folder / "postgres", folder / "postgres.log")
        mongodb = ReplicaSet(folder / "mongodb", folder / "mongodb.log", cache_gb=0.25)
        (folder / "plugins").mkdir()
        (folder / "plugins" / "valflow").symlink_to(plugin_folder())  # as the Dockerfile does
        try:
            postgres.start()
            mongodb.start()
            yield Containers(folder, postgres, mongodb, {p: free_port() for p in ("4200", "5151", "8080")})
        finally:
            mongodb.stop()
            postgres.stop()


@pytest.mark.stack
@pytest.mark.slow
def test_what_the_services_run_works(containers: Containers) -> None:
    children = {name: containers.child(name) for name in ("prefect", "worker", "caretaker", "app")}
    api = containers.here(SERVICES["worker"]["environment"]["PREFECT_API_URL"])
    prefect_api.use_login(api, containers.login)
    try:
        children["app"].spawn()
        children["prefect"].start()
        made = run_to_end(containers, "deployments")
        assert len(made.split()) == 2
        children["worker"].spawn()
        children["caretaker"].spawn()
        children["worker"].wait_until_healthy()
        children["app"].wait_until_healthy()
        assert prefect_api.find_deployment(api=api)["work_pool_name"] == POOL
        app = f"http://127.0.0.1:{containers.ports['5151']}"
        assert version_in(app) is None  # it asks for the login
        assert version_in(app, containers.login) == __version__
        assert run_to_end(containers, "cli", "runs", "--json").strip() == '{"runs": []}'
        assert heartbeats(api)
        assert children["caretaker"].is_running
    finally:
        prefect_api.use_login(api, None)
        for child in reversed(children.values()):
            child.stop()


def run_to_end(containers: Containers, name: str, *arguments: str) -> str:
    env = {**os.environ, **containers.environment(name)}
    command = containers.command(name)
    done = subprocess.run(
        [*command[: -len(SERVICES[name]["command"])], *arguments] if arguments else command,
        env={key: value for key, value in env.items() if value is not None},
        cwd=containers.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
