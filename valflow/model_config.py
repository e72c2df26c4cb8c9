"""The ``model`` section of a configuration: one class per kind of model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from valflow.config_types import Count, Section


class PythonModelConfig(Section):
    """A model of one's own, by import path. Importing it runs its code."""

    kind: Literal["python"] = "python"
    path: str = Field(
        ...,
        description="module:Class of a fiftyone.core.models.Model, or module:function of images",
        pattern=r"^[\w.]+:[A-Za-z_]\w*$",
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Arguments of the class or function")


class FieldModelConfig(Section):
    """Predictions that the dataset already holds."""

    kind: Literal["field"] = "field"
    field: str = Field(..., min_length=1, description="Field of existing predictions")


class _TorchSection(Section):
    """What all models on torch share."""

    params: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of FiftyOne's wrapper, e.g. classes, confidence_thresh"
    )
    device: str | None = Field(
        None,
        pattern=r"^(cpu|mps|cuda(:\d+)?)$",
        description="cpu, cuda, cuda:1, mps; empty takes a GPU where there is one",
    )
    precision: Literal["full", "mixed"] = Field(
        "full", description="mixed: half precision where it is safe (GPU)"
    )


class ZooModelConfig(_TorchSection):
    """A model of the FiftyOne Model Zoo, or of a manifest that FiftyOne knows."""

    kind: Literal["zoo"] = "zoo"
    name: str = Field(..., min_length=1, description="Name in the zoo")


class HuggingFaceModelConfig(_TorchSection):
    """A transformers model, through FiftyOne's integration."""

    kind: Literal["huggingface"] = "huggingface"
    id: str = Field(..., min_length=1, description="Id on the hub, or a folder that save_pretrained wrote")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub")
    task: str | None = Field(None, description="Of FiftyOne's integration; empty: from the model itself")


class UltralyticsModelConfig(_TorchSection):
    """An ultralytics model, through FiftyOne's integration."""

    kind: Literal["ultralytics"] = "ultralytics"
    weights: str = Field(..., min_length=1, description="A .pt file, or a name that ultralytics downloads")


class MergeModelConfig(Section):
    """What several runs of the dataset found, merged into one."""

    kind: Literal["merge"] = "merge"
    runs: list[str] = Field(..., min_length=2, description="Keys of the runs, the preferred ones first")
    strategy: Literal["agreement", "best", "union"] = Field(
        "agreement",
        description="agreement: objects that several runs found; union: each object once; "
        "best: the run with the highest F1 of the class",
    )
    labels: Literal["predicted", "approved"] = Field(
        "predicted", description="predicted: all but what was rejected; approved: as decided"
    )
    iou: float = Field(
        0.5, gt=0.0, le=1.0, strict=True, description="Least overlap of labels that mean the same object"
    )
    least_votes: Count | None = Field(
        None,
        description="Of agreement: runs that must have found an object; empty wants all",
    )
    ground_truth: str | None = Field(
        None,
        min_length=1,
        description="Of best: field of true labels; empty takes what the runs have in common",
    )

    @model_validator(mode="after")
    def _consistent(self) -> MergeModelConfig:
        if self.least_votes is not None and self.strategy != "agreement":
            raise ValueError(f"least_votes belongs to strategy agreement, the strategy is {self.strategy}")
        if self.least_votes is not None and not 2 <= self.least_votes <= len(self.runs):
            raise ValueError(
                f"least_votes: expected 2 to {len(self.runs)}, the number of runs; found {self.least_votes} "
                "(strategy union keeps what one run alone has found)"
            )
        if self.ground_truth is not None and self.strategy != "best":
            raise ValueError(f"ground_truth belongs to strategy best, the strategy is {self.strategy}")
        return self


ModelConfig = Annotated[
    PythonModelConfig
    | FieldModelConfig
    | ZooModelConfig
    | HuggingFaceModelConfig
    | UltralyticsModelConfig
    | MergeModelConfig,
    Field(discriminator="kind"),
]
MODEL_KINDS: dict[str, type[BaseModel]] = {
    "python": PythonModelConfig,
    "field": FieldModelConfig,
    "zoo": ZooModelConfig,
    "huggingface": HuggingFaceModelConfig,
    "ultralytics": UltralyticsModelConfig,
    "merge": MergeModelConfig,
}
