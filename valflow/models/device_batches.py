"""Batches for models on torch, put together and brought to the device while the one before is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from valflow.models.calling import is_out_of_memory


@dataclass
class Part:
    """Images of one shape.

    Attributes:
        places: where they stand among the readable images of the batch.
        images: as the model's ``predict_all`` takes them.
        copied: the event after which they are on the device; None where there is nothing to wait for.
    """

    places: list[int]
    images: Any
    copied: Any = None

    def use(self) -> Any:
        """The images, for the stream that computes now."""
        if self.copied is not None:
            import torch

            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.copied)
            self.images.record_stream(stream)  # their memory is not given away before it is through
        return self.images


@dataclass
class PreparedBatch:
    """A batch of images.

    Attributes:
        inputs: the images as they were read; an ``Exception`` for one that could not be.
        readable: how many are no exceptions.
        parts: the images by shape; None where they could not be put together, which the model will explain.
    """

    inputs: Sequence[Any]
    readable: int
    parts: list[Part] | None


def prepare(model: Any, inputs: Sequence[Any], transformed: bool) -> PreparedBatch:
    """Put a batch together ahead of its turn.

    Args:
        model: FiftyOne's wrapper.
        inputs: images, or why there are none.
        transformed: whether they have been read as the model wants them.
    """
    readable = [one for one in inputs if not isinstance(one, Exception)]
    try:
        batch = put_together(model, readable, transformed)
    except Exception:  # noqa: BLE001 - fails again, and is blamed on the right image, when the model is asked
        return PreparedBatch(inputs, len(readable), None)
    device = getattr(model, "device", None)
    if getattr(device, "type", None) == "cuda":
        for part in batch.parts or ():
            _bring(part, device)
    return PreparedBatch(inputs, len(readable), batch.parts)


def put_together(model: Any, images: Sequence[Any], transformed: bool) -> PreparedBatch:
    """Images in batches of one shape, which also a model that takes any shape can get at once."""
    if not transformed:
        parts = [Part(list(range(len(images))), list(images))]
    elif not model.ragged_batches:
        parts = [Part(list(range(len(images))), _collated(model, list(images)))]
    else:
        order = sorted(range(len(images)), key=lambda i: _shape(images[i]))
        groups = [list(places) for _, places in groupby(order, key=lambda i: _shape(images[i]))]
        parts = [Part(places, _collated(model, [images[i] for i in places])) for places in groups]
    return PreparedBatch(images, len(images), [part for part in parts if part.places])


def _bring(part: Part, device: Any) -> None:
    """Copy images to a GPU beside what it computes; where it has no room for them they stay."""
    import torch

    if not isinstance(part.images, torch.Tensor) or part.images.is_cuda:
        return
    try:
        with torch.cuda.device(device), torch.cuda.stream(_copying_stream(device)):
            part.images = part.images.pin_memory().to(device, non_blocking=True)
            part.copied = torch.cuda.current_stream().record_event()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise


def _copying_stream(device: Any) -> Any:
    import torch

    key = str(device)
    if key not in _streams:
        _streams[key] = torch.cuda.Stream(device)
    return _streams[key]


_streams: dict[str, Any] = {}


def _collated(model: Any, inputs: list[Any]) -> Any:
    import torch

    if model.has_collate_fn:
        return model.collate_fn(inputs)
    return _joined(inputs) if all(isinstance(one, torch.Tensor) for one in inputs) else inputs


def _joined(images: list[Any]) -> Any:
    """Tensors as one; not copied where they lie one behind the other, as a process beside the model has read them."""
    import torch

    first = images[0]
    places = [(one.untyped_storage().data_ptr(), one.storage_offset()) for one in images]
    behind = [(places[0][0], places[0][1] + number * first.numel()) for number in range(len(images))]
    if places != behind or any(one.shape != first.shape or not one.is_contiguous() for one in images):
        return torch.stack(images)
    return first.as_strided((len(images), *first.shape), (first.numel(), *first.stride()))


def _shape(one: Any) -> tuple[Any, ...]:
    if hasattr(one, "shape"):
        return tuple(one.shape)
    if hasattr(one, "items"):
        return tuple(
            (key, tuple(value.shape)) for key, value in sorted(one.items()) if hasattr(value, "shape")
        )
    return ("size", *getattr(one, "size", ()))  # an image of pillow
