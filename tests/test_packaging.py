"""The shape of the project: packages, directions of imports, and what may not stand in any file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
PLACES = PROJECT["tool"]["setuptools"]["package-dir"]
SHIPPED = ("valflow", "tasks", "flows", "expectations")


def folder_of(package: str) -> Path:
    return ROOT / PLACES.get(package, package.replace(".", "/"))


def source_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def is_ignored(path: Path) -> bool:
    return "__pycache__" in path.parts


# -- packages


def test_every_folder_with_code_is_listed_as_a_package() -> None:
    folders = {path.parent for top in SHIPPED for path in source_files(top) if not is_ignored(path)}
    found = sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)
    assert sorted(set(PACKAGES) - PLACES.keys()) == found
    assert PLACES.keys() <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_a_regular_one(package: str) -> None:
    # A folder without __init__.py loses against any package of the same name elsewhere on the path.
    assert (folder_of(package) / "__init__.py").exists()


@pytest.mark.parametrize("name", ["plugins", "src", "utils"])
def test_no_folder_has_a_name_that_is_taken_or_says_nothing(name: str) -> None:
    # `plugins` belongs to FiftyOne's wheel.
    assert not (ROOT / name).exists()
    assert not any(part == name for package in PACKAGES for part in package.split("."))


def test_every_other_file_of_a_package_is_shipped() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        folder = folder_of(package)
        shipped = {path for pattern in patterns.get(package, []) for path in folder.glob(pattern)}
        others = {p for p in folder.iterdir() if p.is_file() and p.suffix not in {".py", ".pyc"}}
        assert others == shipped & others, f"{package}: add the pattern to package-data"


@pytest.mark.slow
def test_the_wheel_holds_all_of_it(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    [wheel] = tmp_path.glob("valflow-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert {"flows/label_dataset.py", "expectations/labels.yaml", "expectations/samples.yaml"} <= names
    assert {"expectations/certificate.yaml", "expectations/audit.yaml"} <= names
    assert {"valflow/py.typed", "valflow/plugin/fiftyone.yml", "valflow/plugin/panel.py"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(SHIPPED)


# -- pins


def test_every_requirement_is_pinned_in_the_constraints() -> None:
    from packaging.requirements import Requirement

    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line)
        assert match, f"expected name==version, found {line!r}"
        pinned[match[1].lower().replace("_", "-")] = match[2]
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["dev"], *extras["ray"]]:
        requirement = Requirement(line)
        version = pinned.get(requirement.name.lower())
        assert version, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{line}, but {version}"


# -- directions


def imports_of(path: Path, *, only_at_module_level: bool) -> Iterator[str]:
    """Top-level names that a file imports; what stands under `if TYPE_CHECKING` does not run."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes: list[ast.AST] = list(node.orelse)
        elif only_at_module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        else:
            nodes = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]
        for child in nodes:
            yield from walk(child)

    yield from walk(ast.parse(path.read_text()))


# (package, what it may never import, whether inside functions it may after all, files that may inside functions)
DIRECTIONS = [
    ("valflow", {"prefect", "great_expectations"}, True, ()),  # 1.5 s and 4-7 s: only where they are needed
    ("valflow", {"flows", "tasks", "expectations", "examples", "benchmarks"}, False, ("valflow/cli/",)),
    ("valflow/cli", {"flows", "tasks", "expectations", "fiftyone"}, True, ()),  # `valflow --help` is quick
    ("plugin", {"prefect", "great_expectations", "flows", "tasks", "expectations"}, False, ()),
    ("tasks", {"flows", "examples", "benchmarks"}, False, ()),
    ("flows", {"expectations", "examples", "benchmarks"}, False, ()),
    ("expectations", {"fiftyone", "prefect", "flows", "tasks"}, False, ()),  # it sees flat tables only
]


@pytest.mark.parametrize(
    ("package", "forbidden", "may_be_lazy", "lazy_places"),
    DIRECTIONS,
    ids=[f"{package}-not-{'-'.join(sorted(forbidden))}" for package, forbidden, *_ in DIRECTIONS],
)
def test_imports_go_one_way(
    package: str, forbidden: set[str], may_be_lazy: bool, lazy_places: tuple[str, ...]
) -> None:
    wrong = []
    for path in source_files(package):
        place = path.relative_to(ROOT).as_posix()
        is_lazy_ok = may_be_lazy or place.startswith(lazy_places or ("\0",))
        for name in imports_of(path, only_at_module_level=is_lazy_ok):
            if name in forbidden:
                wrong.append(f"{place} imports {name}")
    assert not wrong


def test_the_check_of_imports_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(
        "import a.b\nfrom c import d\nfrom . import e\nif TYPE_CHECKING:\n    import f\nelse:\n    import g\n"
        "class H:\n    import i\ndef j():\n    import k\ntry:\n    import m\nexcept ImportError:\n    pass\n"
    )
    assert set(imports_of(path, only_at_module_level=True)) == {"a", "c", "g", "i", "m"}
    assert set(imports_of(path, only_at_module_level=False)) == {"a", "c", "g", "i", "k", "m"}


def test_only_tasks_that_validate_know_the_suites() -> None:
    users = {
        path.stem
        for path in source_files("tasks")
        if "expectations" in imports_of(path, only_at_module_level=False)
    }
    # start: a suite that cannot be loaded is told before anything is written.
    assert users <= {"start", "triage", "validate"}


def test_the_command_line_starts_quickly() -> None:
    slow = "{'prefect', 'fiftyone', 'great_expectations', 'pandas', 'matplotlib'}"
    code = f"import sys, valflow.cli; print(*sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# -- what may not stand in any file


def tracked_files() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git clone")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


# Written in pieces, so that this file does not find itself. Ann is the person that examples speak of.
FORBIDDEN = {
    "a registry's address": re.compile(
        r"index-" + r"url|find-" + r"links|trusted-" + r"host|pypi\." + r"org"
    ),
    "a download": re.compile(r"https?://\S+\.(?:whl|tar\.gz|zip|tgz)\b"),
    "a folder of one machine": re.compile(
        r"(?<![\w.])/(?:ro" + r"ot|wo" + r"rk|fa" + r"rm|Us" + r"ers|home/(?!ann/)[a-z]+)/\w"
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(text.splitlines(), 1):
            if FORBIDDEN[what].search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


@pytest.mark.parametrize("name", ["scripts/setup.sh", ".ci/run"])
def test_scripts_are_executable_and_strict(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "deployed-demo", "test", "up", "lint", "bench", "clean"):
        assert f"make {target} " in done.stdout
