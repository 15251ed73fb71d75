"""The built-in model families and their options, without torch.

`plan`, `list` and the config's JSON schema read this page; the networks are in the file that
`factory` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Stride = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """A family of networks that edge.yaml can name.

    Attributes:
        name: as in edge.yaml.
        summary: one line for `list models`.
        Options: pydantic model of the keys that the family takes.
        factory: `package.module:function`, called as
            `function(num_classes=..., input_shape=..., **options)`.
        taps: names of the intermediate features with default options, in order; where `depth`
            changes them, the `taps` of the built network are the truth.
    """

    name: str
    summary: str
    Options: type[BaseModel]
    factory: str
    taps: tuple[str, ...]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ResNetOptions(_Options):
    """Options of `resnet8` and `resnet20`."""

    width: Width = Field(16, description="Channels of the first stage; then doubled twice.")
    stem_stride: Stride = Field(
        2,
        description="Stride of the first convolution; 1 keeps more detail at four times the cost.",
    )


class DsCnnOptions(_Options):
    """Options of `dscnn`."""

    width: Width = Field(
        24, description="Channels of the stem; the blocks have 2, 2, 4 and 4 times as many."
    )
    stem_stride: Stride = Field(2, description="Stride of the first convolution.")


class MlpOptions(_Options):
    """Options of `mlp`."""

    width: Width = Field(64, description="Units of each hidden layer.")
    depth: Depth = Field(2, description="Number of hidden layers.")
    dropout: Dropout = Field(0.0, description="Share of hidden units dropped while training.")


class MobileNetV2Options(_Options):
    """Options of `mobilenetv2`."""

    width: Width = Field(
        16, description="Channels of the stem; the stages have 1, 2 and 4 times as many."
    )
    expansion: int = Field(6, ge=1, description="How much wider a block is inside than outside.")
    stem_stride: Stride = Field(2, description="Stride of the first convolution.")


class MobileNetV3Options(_Options):
    """Options of `mobilenetv3`."""

    width: Width = Field(
        16, description="Channels of the stem; the stages have 1, 2 and 4 times as many."
    )
    expansion: int = Field(4, ge=1, description="How much wider a block is inside than outside.")
    stem_stride: Stride = Field(2, description="Stride of the first convolution.")


class TransformerOptions(_Options):
    """Options of `transformer`."""

    width: Width = Field(64, description="Size of a token; a multiple of `heads`.")
    depth: Depth = Field(4, description="Number of encoder blocks.")
    heads: int = Field(4, ge=1, description="Attention heads of each block.")
    patch: int | None = Field(
        None,
        ge=1,
        description="Side of the square patch that becomes a token (images; 4 unless given), or "
        "time steps that become a token (sequences; 1 unless given).",
    )
    expansion: int = Field(
        2, ge=1, description="Hidden units of the feed-forward part per `width`."
    )
    dropout: Dropout = Field(0.0, description="Dropout after attention and feed-forward.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


RESNET8 = ModelFamily(
    name="resnet8",
    summary="residual network, 3 basic blocks (CIFAR style)",
    Options=ResNetOptions,
    factory="edgedistill.pipeline.models.resnet:build8",
    taps=("stem", "stage1", "stage2", "stage3", "head"),
)
RESNET20 = ModelFamily(
    name="resnet20",
    summary="residual network, 9 basic blocks (CIFAR style)",
    Options=ResNetOptions,
    factory="edgedistill.pipeline.models.resnet:build20",
    taps=("stem", "stage1", "stage2", "stage3", "head"),
)
DSCNN = ModelFamily(
    name="dscnn",
    summary="depthwise-separable CNN for microcontrollers; 21 k parameters at width 24",
    Options=DsCnnOptions,
    factory="edgedistill.pipeline.models.dscnn:build",
    taps=("stem", "stage1", "stage2", "stage3", "stage4", "head"),
)
MLP = ModelFamily(
    name="mlp",
    summary="multi-layer perceptron for inputs of any shape",
    Options=MlpOptions,
    factory="edgedistill.pipeline.models.mlp:build",
    taps=("hidden1", "hidden2", "head"),
)
MOBILENETV2 = ModelFamily(
    name="mobilenetv2",
    summary="small MobileNetV2: inverted residuals, ReLU6",
    Options=MobileNetV2Options,
    factory="edgedistill.pipeline.models.mobilenet:build",
    taps=("stem", "stage1", "stage2", "stage3", "last", "head"),
)
MOBILENETV3 = ModelFamily(
    name="mobilenetv3",
    summary="small MobileNetV3: inverted residuals, squeeze-and-excitation, hardswish",
    Options=MobileNetV3Options,
    factory="edgedistill.pipeline.models.mobilenetv3:build",
    taps=("stem", "stage1", "stage2", "stage3", "last", "head"),
)
TRANSFORMER = ModelFamily(
    name="transformer",
    summary="small pre-norm transformer encoder over image patches or sequences",
    Options=TransformerOptions,
    factory="edgedistill.pipeline.models.transformer:build",
    taps=("stem", "block1", "block2", "block3", "block4", "head"),
)
