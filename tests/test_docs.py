"""What README and docs show is true: sessions run and print what is shown, references are complete.

How a block is treated depends on its language. ``console``: the lines after ``$`` run, and what they print must
contain the lines shown, in their order, numbers, ids and folders apart (``…`` stands for what is left out).
``bash``: every line runs. ``sh``: only has to be understood by the command line (servers, `make`). ``python`` runs,
``yaml`` is loaded. A comment ``<!-- file: NAME -->`` before a block puts it into a file first, ``<!-- not run -->``
leaves it alone. Every page starts in a folder of its own, with a dataset `numbers` and its `numbers.yaml`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from valflow import database
from valflow.cli import main
from valflow.cli.parser import build_parser
from valflow.config import Duration, LabelingConfig, config_from_mapping
from valflow.model_config import MODEL_KINDS
from valflow.stack import Stack

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MINIMAL = {"dataset": "numbers", "label_field": "auto", "model": {"kind": "field", "field": "predictions"}}
TEST_SCENES = 16
RUNNABLE = ("bash", "console", "python")

_BLOCK = re.compile(
    r"(?:^<!-- (?P<remark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
# What a person types at a prompt, as a terminal shows it: `  7  8: w`, `finalize these 9 labels? [y/N] y`.
_VERDICT = re.compile(r"^\s*(\d+)  .*: (\w*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    page: Path
    line: int
    language: str
    text: str
    remark: str

    @property
    def place(self) -> str:
        return f"{self.page.name}, line {self.line}"

    @property
    def file(self) -> str | None:
        return self.remark.removeprefix("file: ") if self.remark.startswith("file: ") else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m["language"], m["text"], m["remark"] or "")
        for m in _BLOCK.finditer(text)
    ]


def all_blocks(*languages: str) -> list[Block]:
    return [b for page in PAGES for b in blocks(page) if b.language in languages]


class Terminal(io.StringIO):
    """What commands print, and a person who answers their questions with what the page shows."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self._verdicts = {int(number): typed for number, typed in _VERDICT.findall(shown)}

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:
        prompt = self.getvalue().rsplit("\n", 1)[-1]
        numbered = re.match(r"\s*(\d+)  ", prompt)
        typed = self._verdicts.get(int(numbered[1]), "") if numbered else "y"
        self.write(f"{typed}\n")  # the echo
        return f"{typed}\n"


@dataclass
class Shell:
    """Runs the commands of a page in this process, one after the other."""

    folder: Path
    names: dict[str, Any]

    def run(self, line: str, shown: str = "") -> tuple[int, str]:
        words = shlex.split(self._with_a_real_label(line), comments=True)
        terminal = Terminal(shown)
        with (
            contextlib.redirect_stdout(terminal),
            contextlib.redirect_stderr(terminal),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", terminal)
            code = self._call(words)
        return code, terminal.getvalue()

    def _call(self, words: list[str]) -> int:
        if words[0] == "export":
            os.environ.update(dict(word.split("=", 1) for word in words[1:]))
            return 0
        if words[0] == "source":  # the virtual environment: this one
            return 0
        if words[:2] == ["python", "-m"]:
            return int(importlib.import_module(words[2]).main(words[3:]))
        assert words[0] == "valflow", f"expected valflow, export, source or python -m, found {words}"
        return main(words[1:])

    def _with_a_real_label(self, line: str) -> str:
        """Ids differ from run to run; one that is shown stands for some label of the latest run."""
        if not re.search(r"\b[0-9a-f]{24}\b", line):
            return line
        from valflow import ledger, runs

        (some, *_) = ledger.approved_ids(runs.load("latest")["run"])
        return re.sub(r"\b[0-9a-f]{24}\b", str(some[0]), line)


def masked(text: str) -> list[str]:
    """Lines without what differs from run to run: numbers, ids, folders, and the width of columns."""
    for pattern, mask in (
        (r"[^\s\"'(]*/(?=[^\s/])", ""),
        (r"\b[0-9a-f]{12,64}\b", "#"),
        (r"\d+(\.\d+)?", "#"),
        (r"\blabels?\b", "labels"),
        (r"-{2,}|\s+", " "),
    ):
        text = re.sub(pattern, mask, text) if mask != " " else text
    return [" ".join(line.split()) for line in text.splitlines()]


def check_output(shown: str, printed: str, place: str) -> None:
    remaining = iter(masked(printed))
    for raw, line in zip(shown.splitlines(), masked(shown), strict=True):
        if line in ("", "…"):
            continue
        start, _, end = (part.strip() for part in line.partition("…"))
        found = any(r.startswith(start) and r.endswith(end) for r in remaining)
        assert found, f"{place}: {raw!r} was not printed (or not there). Printed:\n{printed}"


def commands_of(block: Block) -> Iterator[tuple[str, str]]:
    """``(command, output shown)``, of a block that runs."""
    text = block.text.replace("\\\n", " ")
    if block.language == "bash":
        yield from ((line, "") for line in text.splitlines() if line.partition("#")[0].strip())
    elif block.language == "console":
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Scenes of digits with ground truth and predictions, to be copied for each page."""
    from examples.digits.model import DigitDetector
    from examples.digits.scenes import build_dataset

    dataset = build_dataset("docs-scenes", tmp_path_factory.mktemp("scenes"), TEST_SCENES, overwrite=True)
    dataset.apply_model(DigitDetector(), label_field="predictions")
    yield dataset
    dataset.delete()


@pytest.fixture
def shell(in_stack: Stack, scenes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A folder with `numbers.yaml`, the dataset `numbers`, and a Prefect server."""
    import fiftyone as fo
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("VALFLOW_REVIEWER", "ann")
    known = set(sys.modules)
    # What other tests left in the database is none of a page's business, and `valflow doctor` would tell of it.
    database.runs().delete_many({})
    scenes.clone("numbers", persistent=True)
    model = '{kind: python, path: "examples.digits.model:DigitDetector"}'
    config = f"dataset: numbers\nlabel_field: auto_detections\nmodel: {model}\n"
    (tmp_path / "numbers.yaml").write_text(config)
    with temporary_settings({PREFECT_API_URL: in_stack.api_url}):
        yield Shell(tmp_path, {})
    if fo.dataset_exists("numbers"):
        fo.delete_dataset("numbers")
    for name in set(sys.modules) - known:  # modules that a page wrote
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def pages_to_run() -> list[Path]:
    return [p for p in PAGES if any(b.language in RUNNABLE and b.remark != "not run" for b in blocks(p))]


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.parametrize("page", pages_to_run(), ids=lambda page: page.stem)
def test_a_page_does_what_it_shows(page: Path, shell: Shell) -> None:
    if page.name == "README.md":  # it starts from nothing
        import fiftyone as fo

        fo.delete_dataset("numbers")
        (shell.folder / "numbers.yaml").unlink()
    for block in blocks(page):
        if block.remark == "not run":
            continue
        if block.file:
            (shell.folder / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python" and block.file:
            importlib.import_module(Path(block.file).stem)
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec"), shell.names)
        for command, shown in commands_of(block):
            code, printed = shell.run(command, shown)
            is_refused = re.search(r"^valflow: ", shown, re.MULTILINE) is not None
            assert bool(code) == is_refused, f"{block.place}: {command}\n{printed}"
            check_output(shown, printed, f"{block.place}, {command}")


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: block.place)
def test_yaml_is_understood(block: Block, tmp_path: Path) -> None:
    values = yaml.safe_load(block.text)
    if "expectations" in values:
        return  # a suite: runs with its page
    assert config_from_mapping({**MINIMAL, **values}).label_field


@pytest.mark.parametrize("block", all_blocks("sh"), ids=lambda block: block.place)
def test_commands_that_are_only_shown_are_understood(block: Block) -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words[:1] == ["valflow"]:
            build_parser().parse_args(words[1:])
        elif words[:1] == ["make"]:
            assert words[1] in targets, f"{block.place}: {line}"


# -- the reference of the command line


def subcommands() -> dict[str, Any]:
    actions = build_parser()._subparsers
    assert actions is not None
    return dict(next(iter(actions._group_actions)).choices or {})


def sections_of_commands() -> dict[str, str]:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    parts = re.split(r"^### `valflow (\w+).*`$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section_and_no_other() -> None:
    assert list(sections_of_commands()) == list(subcommands())


COMMON = {"--help", "--json", "--debug"}
SELECTION = {"--class", "--min-confidence", "--max-confidence", "--label", "--sample", "--all"}


@pytest.mark.parametrize("name", subcommands())
def test_every_option_of_a_command_is_in_its_section_and_no_other(name: str) -> None:
    section = sections_of_commands()[name]
    known = {o for a in subcommands()[name]._actions for o in a.option_strings if o.startswith("--")}
    shown = set(re.findall(r"--[a-z][a-z-]+", section))
    if "[selection](#selection)" in section:
        shown |= SELECTION
    if "[reviewer](#reviewer)" in section:
        shown |= {"--reviewer"}
    assert known - COMMON == shown - COMMON


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [c for c in subcommands() if f"`{c}`" not in readme and f"valflow {c}" not in readme] == []


# -- the reference of the configuration


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its dots; a section gives its keys, a list of sections `name[].key`."""
    for name, field in model.model_fields.items():
        sections = list(_sections_in(field.annotation))
        if not sections:
            yield prefix + name, field
        brackets = "[]" if "list" in str(field.annotation) and sections else ""
        for section in sections:
            yield from keys_of(section, f"{prefix}{name}{brackets}.")


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def bounds_of(field: FieldInfo) -> str:
    """What a value must be, in the words of the reference."""
    if any(_is_duration(part) for part in (field, *get_args(field.annotation))):
        return "such as `2d`, `12h`"
    limits = {
        k: v
        for m in field.metadata
        for k in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
        if (v := getattr(m, k, None)) is not None
    }
    for part in (field.annotation, *get_args(field.annotation)):
        for inner in getattr(part, "__metadata__", ()):
            found = getattr(inner, "metadata", [inner])
            limits |= {
                k: v
                for m in found
                for k in ("ge", "gt", "le", "lt")
                if (v := getattr(m, k, None)) is not None
            }
    choices = _literals_in(field.annotation)
    if choices and "le" in limits:
        return f"{limits['ge']:g} to {limits['le']:g}, or " + " or ".join(f"`{c}`" for c in choices)
    if choices:
        return ", ".join(f"`{c}`" for c in choices)
    low = limits.get("ge", limits.get("gt"))
    if low is not None:
        low_words = f"above {low:g}" if "gt" in limits else f"{low:g}"
        if "lt" in limits and limits["lt"] <= 1:
            return f"{low_words}, below {limits['lt']:g}"
        if "le" not in limits:
            return f"{low_words} or more"
        return f"{low_words}{',' if 'gt' in limits else ''} to {limits['le']:g}"
    if "pattern" in limits:
        return "`cpu`, `mps`, `cuda`, `cuda:N`" if "cuda" in limits["pattern"] else "`module:name`"
    if "max_length" in limits:
        return f"at most {limits['max_length']} characters"
    return "not empty" if "min_length" in limits else ""


def _is_duration(part: Any) -> bool:
    metadata = part.metadata if isinstance(part, FieldInfo) else getattr(part, "__metadata__", ())
    return list(metadata) == list(get_args(Duration)[1:])


def _literals_in(annotation: Any) -> tuple[str, ...]:
    arguments = get_args(annotation)
    if arguments and all(isinstance(a, str) for a in arguments):
        return arguments
    return next((found for a in arguments if (found := _literals_in(a))), ())


def documented_keys() -> dict[str, tuple[str, str]]:
    """``key: (default, bounds)`` as the reference says; a key of two sections is named once."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| ([^|]*) \| ([^|]*) \| [^|]+ \|$", text, flags=re.MULTILINE)
    assert len(rows) == len({key for key, *_ in rows})
    return {key: (default.strip(), bounds.strip()) for key, default, bounds in rows}


def test_every_key_is_documented_with_default_and_bounds() -> None:
    expected: dict[str, tuple[str, str]] = {}
    for key, field in keys_of(LabelingConfig):
        if key in ("model.kind", "approval.mode"):  # two sections, told apart by this key
            kinds = {
                "model.kind": ", ".join(f"`{kind}`" for kind in MODEL_KINDS),
                "approval.mode": "`fixed`, `certified`, `review_all`",
            }
            expected[key] = ("required" if key == "model.kind" else "`fixed`", kinds[key])
            continue
        default: Any = field.get_default(call_default_factory=True)
        told = "required" if field.is_required() else f"`{_as_yaml(default)}`"
        expected[key] = (told, bounds_of(field))
    assert documented_keys() == expected


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


# -- pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_exist(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"", text):
        path, _, anchor = (target[0] or target[1]).partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {path}, which is not there"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{page.name} links to {path}#{anchor}, which is not there"


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES[1:] if f"docs/{p.name}" not in readme] == []
