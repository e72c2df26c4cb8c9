"""What works beside a model: threads of its process, or processes of their own.

Threads cost nothing and are enough while the model lets go of the interpreter's lock for long. A model on a GPU does
not: Python launches its operations, many for each image, and waits for the lock behind every reader before each.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from PIL import Image

from valflow import side_process
from valflow.config import RunnerConfig
from valflow.errors import ConfigError
from valflow.models import Source, images
from valflow.models.source import FileSource
from valflow.side_processes import SideProcesses, SideProcessLost

_MOST_READERS = 8
# Shards in several threads share them.
_starting = threading.Lock()


def processes_for(source: Source, config: RunnerConfig) -> Processes | None:
    """The processes that a configuration wants beside a model; None where threads do the work.

    Raises:
        ConfigError: they are wanted, and cannot read what this model needs.
    """
    if config.beside == "thread" or not isinstance(source, FileSource):
        return None
    if config.beside == "auto" and source.device_type in (None, "cpu"):
        return None
    try:
        read = side_process.pack(source.read)
    except TypeError as error:
        if config.beside == "auto":
            return None
        raise ConfigError(
            [f"runner.beside: no other process can read images as this model does: {error}; use thread"]
        ) from error
    with _starting:
        return _processes(read, config.readers or _readers_of(config))


def _readers_of(config: RunnerConfig) -> int:
    """One less than there are cores, shared by all models that are at work."""
    models = 1 if config.kind == "thread" else config.shards_at_a_time
    return max(1, min(_MOST_READERS, ((os.cpu_count() or 2) - 1) // models))


@dataclass(frozen=True)
class Processes:
    """Those that read, and the one that writes.

    Attributes:
        readers: how many read.
    """

    readers: int
    _read: bytes
    _reading: SideProcesses
    _writing: SideProcesses

    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """What ``Source.fetch`` gives."""
        return self._fetch_files(images.paths_of(dataset, sample_ids))

    def write(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that may be called once more where a process crashes in the middle of it."""
        try:
            return self._writing.call(function, *arguments)
        except SideProcessLost:
            return self._writing.call(function, *arguments)

    def close(self) -> None:
        """End them."""
        self._reading.close()
        self._writing.close()

    def _fetch_files(self, paths: Sequence[str | None]) -> list[Any]:
        try:
            return self._reading.call(_read_files, self._read, paths).inputs()
        except SideProcessLost as error:
            if len(paths) > 1:  # which one was it?
                return [image for path in paths for image in self._fetch_files([path])]
            return [ValueError(f"not a readable image: the process that was reading it ended {error.how}")]


@functools.lru_cache(maxsize=2)
def _processes(read: bytes, readers: int) -> Processes:
    return Processes(
        readers,
        read,
        SideProcesses(readers, _prepare_reading, read),
        SideProcesses(1, _prepare_writing),
    )


@dataclass
class _Images:
    """Images of a batch on their way between processes.

    Attributes:
        apart: the images, without those that are parts of ``whole``, and what could not be read.
        whole: tensors of one shape as one, which spares the model's process to put them together; or None.
        places: where the parts of ``whole`` stand among the images.
    """

    apart: dict[int, Any]
    whole: Any
    places: list[int]

    def inputs(self) -> list[Any]:
        """One for each image, in order."""
        images = dict(self.apart)
        images.update(zip(self.places, self.whole if self.places else (), strict=True))
        return [images[place] for place in range(len(images))]


def _prepare_writing() -> None:
    from valflow import database, inference  # noqa: F401

    database.connection()  # imports FiftyOne, which takes seconds


def _prepare_reading(read: bytes) -> None:
    # What reading needs is imported by reading.
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (8, 8)).save(path := f"{folder}/first.png")
        images.read_files([path], _loaded(read))
    # The others read at the same time: a team of threads in each would only be in the way.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(1)


@functools.lru_cache(maxsize=2)
def _loaded(read: bytes) -> Callable[[str], Any]:
    found: Callable[[str], Any] = side_process.unpack(read)
    return found


def _read_files(read: bytes, paths: Sequence[str | None]) -> _Images:
    images_read = images.read_files(paths, _loaded(read))
    torch = sys.modules.get("torch")
    places = [i for i, one in enumerate(images_read) if torch is not None and type(one) is torch.Tensor]
    if torch is None or len({(images_read[i].shape, images_read[i].dtype) for i in places}) != 1:
        return _Images(dict(enumerate(images_read)), None, [])
    whole = torch.stack([images_read[i] for i in places])
    apart = {i: one for i, one in enumerate(images_read) if i not in set(places)}
    return _Images(apart, whole, places)
