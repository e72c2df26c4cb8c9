"""What the zoo, Hugging Face and ultralytics models share: FiftyOne's own wrappers, on a device."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bson import ObjectId

from valflow.errors import ConfigError
from valflow.models import device_batches, images
from valflow.models.calling import predict_readable
from valflow.models.device_batches import PreparedBatch
from valflow.models.probing import probe
from valflow.models.source import device_type_of


@dataclass(eq=False)
class WrappedSource:
    """A model that FiftyOne has wrapped.

    Attributes:
        model: the ``fiftyone.core.models.Model``.
        identity: what the run record keeps.
        mixed: whether to compute in half precision where it is safe.
        read_at_once: see ``Source``.
        read: see ``FileSource``.
        device_type: see ``FileSource``.
    """

    model: Any
    identity: dict[str, Any]
    mixed: bool = False
    read_at_once: int = images.READ_AT_ONCE
    read: Callable[[str], Any] = field(init=False)
    device_type: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._get_item = _get_item_of(self.model)
        self.read = images.read_array if self._get_item is None else partial(_read_item, self._get_item)
        self.device_type = device_type_of(self.model)
        # Images come transformed, by the threads that read them.
        if self._get_item is not None:
            self.model.preprocess = False

    def describe(self) -> dict[str, Any]:
        """Name, version, digest of the weights, parameters."""
        return self.identity

    def classes(self, dataset: Any) -> list[str]:
        """Classes that the model names."""
        return [str(c) for c in getattr(self.model, "classes", None) or []]

    def label_class(self, dataset: Any) -> str | None:
        """The class of what it finds on the first image."""
        return probe(self, dataset)

    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """The images, transformed for the model."""
        return images.fetch_images(dataset, sample_ids, self.read)

    def prepare(self, inputs: Sequence[Any]) -> PreparedBatch:
        """The images in batches of one shape, on the device where that is a GPU."""
        return device_batches.prepare(self.model, inputs, self._get_item is not None)

    def predict_prepared(self, batch: PreparedBatch) -> list[Any]:
        """What the model finds."""
        with self.model, self._precision():
            return predict_readable(partial(self._predict_batch, batch), batch.inputs)

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """What the model finds."""
        return self.predict_prepared(self.prepare(inputs))

    def _precision(self) -> Any:
        if not self.mixed:
            return contextlib.nullcontext()
        import torch

        return torch.autocast(self.model.device.type, dtype=torch.float16)

    def _predict_batch(self, batch: PreparedBatch, inputs: list[Any]) -> list[Any]:
        # After a failure each image is asked by itself.
        if batch.parts is None or len(inputs) != batch.readable:
            batch = device_batches.put_together(self.model, inputs, self._get_item is not None)
        found: list[Any] = [None] * len(inputs)
        for part in batch.parts or ():
            for place, prediction in zip(part.places, self.model.predict_all(part.use()), strict=True):
                found[place] = prediction
        return found


def device_options(device: str | None, precision: str) -> dict[str, Any]:
    """The device as an option of FiftyOne's wrappers.

    Raises:
        ConfigError: there is no such device, or it has no half precision.
    """
    import torch

    found = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    kind = found.partition(":")[0]
    number = int(found.partition(":")[2] or 0)
    if kind == "cuda" and number >= torch.cuda.device_count():
        raise ConfigError(
            [
                f"model.device: {found!r} is not there, torch {torch.__version__} sees "
                f"{torch.cuda.device_count()} GPUs; leave it out to take what there is"
            ]
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["model.device: 'mps' is not there; leave it out to take what there is"])
    if precision == "mixed" and kind == "cpu":
        raise ConfigError(
            ["model.precision: 'mixed' pays on a GPU only, and the device is 'cpu'; use 'full'"]
        )
    return {"device": found}


def check_images(model: Any, where: str) -> None:
    """Refuse what does not work on images alone.

    Raises:
        ConfigError: naming what it works on.
    """
    media_type = getattr(model, "media_type", "image")
    if media_type not in ("image", None):
        raise ConfigError([f"{where}: expected a model of images, it is one of {media_type!r}"])
    needed = getattr(model, "needs_fields", None)
    if needed:
        raise ConfigError(
            [f"{where}: it takes prompts from fields of samples ({needed}), which no run provides"]
        )


def weights_digest(model: Any) -> str | None:
    """SHA-256 of names, types, shapes and values of all weights; None where the model has none to look at."""
    import torch

    module = getattr(model, "_model", None)
    if not isinstance(module, torch.nn.Module):
        return None
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        if not isinstance(weight, torch.Tensor):
            continue
        flat = weight.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def parameters(config: Any) -> dict[str, Any]:
    """What gives the scores of a model their meaning beside its weights; where it computes does not."""
    return {**config.params, "precision": "mixed"} if config.precision == "mixed" else dict(config.params)


def _read_item(get_item: Any, path: str) -> Any:
    return get_item({"filepath": path})


def _get_item_of(model: Any) -> Any:
    """FiftyOne's own reader of the model's inputs, where it needs no more than the file."""
    from fiftyone.core.models import SupportsGetItem

    if not isinstance(model, SupportsGetItem):
        return None
    get_item = model.build_get_item()
    return get_item if set(get_item.required_keys) == {"filepath"} else None
