"""Image classification: small residual networks and vision transformers, on digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from trainables import images
from trainables.base import (
    Capabilities,
    Hparams,
    HparamSpec,
    MetricSpec,
    Place,
    Stack,
    TrainableError,
)
from trainables.core import augment, options
from trainables.core.image_feed import ImageFeed
from trainables.core.model import Program
from trainables.core.optim import CLIP_NORM, ready
from trainables.core.parametrization import Scaling
from trainables.core.schedules import Schedule
from trainables.core.stack import CoreStack
from trainables.networks.base import Network
from trainables.networks.classifier import Classifier
from trainables.networks.norm import NORMS, Norm
from trainables.networks.resnet import ResNet
from trainables.networks.vit import POSITIONS, ViT

ARCHITECTURES = ("resnet", "vit")
_DROPOUT = "resnet: before the second convolution of each block; vit: of both residual branches"


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A classifier of images, trained from scratch.

    Attributes:
        architecture: `resnet` or `vit`; see `trainables.networks`.
        width: Channels of the first stage; or width of the residual stream, a multiple of the heads.
        depth: Blocks in each stage; or of the transformer.
        stages: Stages of a resnet, each with twice the channels and half the height and width of the one before.
        preactivation: Whether norm and ReLU of a resnet come before each convolution instead of after.
        norm: Norms of a resnet: `batch`, `ghost` (batch norm of parts of the batch) or `group` (groups of channels).
        ghost_size: Images that `ghost` normalises together; divides the batch.
        norm_groups: Groups of channels that `group` normalises together; divides the width.
        heads: Attention heads of a vit.
        patch: Side of a vit's patches in pixels; divides height and width of the images.
        positions: Positions of a vit: `learned`, or `fixed` sines and cosines of row and column.
        batch: Images per member and step.
        data: Path of the images, or None for scikit-learn's digits; see `trainables.images`.
        eval_examples: Images of a split that an evaluation reads, at most.
        schedule: Learning rate over the age of the weights, as for `Language`; see `trainables.core.schedules`. It
            decides which hyperparameters there are beside the optimizer's, all live.
        schedule_unit: `steps`, or `tokens` for durations in images, such as `warmup_tokens` instead of `warmup_steps`.
        schedule_knots: Knots of the piecewise schedules.
        optimizer: Name of the optimizer, one of `trainables.core.optim.REGISTERED`.
        parametrization: How initial weights and the effect of hyperparameters follow the size: `standard`; `mup` in
            width; or, for a vit, `completep` in width and depth. See `trainables.core.parametrization`.
        base_width: Width of the base model; without effect under `standard`.
        base_depth: Depth of the base model; of effect under `completep` only.
        base_heads: Heads of the base model, which give the head size at which attention has its usual scale.
        accumulate: Micro-batches that the images of a step are split into, to save memory; it divides `batch`. Under
            `ghost` the parts that are normalised together are others than without, under `batch` they would be smaller,
            so there it is refused.
        noise_decay: Decay of the noise scale's moving averages by one step.
    """

    architecture: str = "resnet"
    width: int = 16
    depth: int = 1
    stages: int = 2
    preactivation: bool = False
    norm: str = "batch"
    ghost_size: int = 16
    norm_groups: int = 8
    heads: int = 2
    patch: int = 2
    positions: str = "learned"
    batch: int = 64
    data: str | None = None
    eval_examples: int = 10_000
    schedule: str = "cosine"
    schedule_unit: str = "steps"
    schedule_knots: int = 8
    optimizer: str = "adamw"
    parametrization: str = "standard"
    base_width: int = 16
    base_depth: int = 1
    base_heads: int = 2
    accumulate: int = 1
    noise_decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse options that make no model, whatever the images."""
        options.check_counts("vision", self, _COUNTS)
        for name, known in _CHOICES.items():
            options.check_choice("vision", self, name, known)
        options.check_flag("vision", self, "preactivation")
        options.check_divides("vision", self, "accumulate", "batch")
        options.check_share("vision", self, "noise_decay")
        if self.architecture == "vit":
            self._check_vit()
        else:
            self._check_resnet()
        object.__setattr__(self, "data", options.absolute(self.data))
        self._scaling()
        self._schedule()

    def describe(self) -> Capabilities:
        """`accuracy`, `error` and `loss`; every hyperparameter live."""
        found = images.load(self.data)
        program = self._program(found, torch.device("cpu"))
        return Capabilities(
            metrics={
                "accuracy": MetricSpec(mode="max", doc="share of images classified correctly"),
                "error": MetricSpec(mode="min", doc="1 - accuracy"),
                "loss": MetricSpec(mode="min", unit="nat/image", doc="mean cross entropy, labels not smoothed"),
            },
            hparams=program.hparams,
            tokens_per_step=self.batch,
            flops_per_step=self.batch * self._network(found).flops(),
            rng="splitmix64 v1",
            data=found.provenance(),
        )

    def bucket(self, hparams: Hparams) -> str:
        """All members of one `Vision` share its bucket: every hyperparameter is live."""
        later = set(self.__dataclass_fields__) - _NOT_IN_BUCKETS - options.without_effect(self) - self._without_effect()
        return options.bucket("vision", self, _SHAPE_FIELDS, later)

    def _without_effect(self) -> set[str]:
        """Options of another architecture or norm."""
        if self.architecture == "vit":
            return {"stages", "preactivation", "norm", "ghost_size", "norm_groups"}
        norms = {"ghost_size", "norm_groups"} - {_SIZES.get(self.norm)}
        return norms | {"heads", "patch", "positions", "base_heads"}

    def build(self, bucket: str, capacity: int, place: Place) -> Stack:
        """Build an empty stack."""
        if bucket != self.bucket({}):
            raise TrainableError(f"bucket {bucket!r} is not {self.bucket({})!r}, the only one")
        program = self._program(images.load(self.data), torch.device(place.device))
        if place.plan is not None and place.plan.accumulate > 1 and program.model.buffers():
            raise TrainableError(
                f"vision norm is {self.norm!r}: a batch that is split to save memory would be normalised otherwise; "
                "give a smaller batch, or norm group"
            )
        return CoreStack(program, capacity, place)

    def _program(self, found: images.Images, device: torch.device) -> Program:
        self._check_batch(len(found.labels["train"]))
        network = self._network(found)
        momentum = {"bn_momentum": _BN_MOMENTUM} if network.buffers() else {}
        mean, std = (torch.from_numpy(values).to(device) for values in (found.mean, found.std))
        return Program(
            model=Classifier(network, mean, std),
            feed=ImageFeed(
                images={split: torch.from_numpy(pixels).to(device) for split, pixels in found.images.items()},
                labels={split: torch.from_numpy(labels).to(device) for split, labels in found.labels.items()},
                fill=torch.from_numpy(found.mean.round().astype(np.uint8)).to(device),
                batch_size=self.batch,
                evaluation_examples=self.eval_examples,
            ),
            optimizer=ready(self.optimizer),
            schedule=self._schedule(),
            extra_hparams={**_HPARAMS, **momentum, **augment.HPARAMS},
            accumulate=self.accumulate,
            noise_decay=self.noise_decay,
        )

    def _network(self, found: images.Images) -> Network:
        shape, classes = found.shape, len(found.classes)
        if self.architecture == "resnet":
            return ResNet(
                shape=shape,
                classes=classes,
                width=self.width,
                depth=self.depth,
                stages=self.stages,
                preactivation=self.preactivation,
                norm=Norm(kind=self.norm, ghost_size=self.ghost_size, groups=self.norm_groups),
                scaling=self._scaling(),
            )
        height, width, _ = shape
        if height % self.patch or width % self.patch:
            raise TrainableError(f"vision patch is {self.patch}; give a divisor of {height} and {width}")
        return ViT(
            shape=shape,
            classes=classes,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            patch=self.patch,
            positions=self.positions,
            scaling=self._scaling(),
            base_head_dim=self.base_width // self.base_heads,
        )

    def _scaling(self) -> Scaling:
        return options.scaling(self)

    def _schedule(self) -> Schedule:
        return options.schedule(self, self.batch)

    def _check_vit(self) -> None:
        options.check_multiple("vision", self, "width", self.heads, "heads")
        options.check_multiple("vision", self, "base_width", self.base_heads, "base_heads")
        if self.positions == "fixed":
            options.check_multiple("vision", self, "width", 4, "sine and cosine of row and column")

    def _check_resnet(self) -> None:
        if self.parametrization == "completep":
            raise TrainableError("vision parametrization is 'completep', which has no rules for resnet; give mup")
        if self.norm == "group":
            options.check_multiple("vision", self, "width", self.norm_groups, "norm_groups")
        elif self.norm == "ghost":
            self._check_together("ghost_size", self.ghost_size)
            if self.batch // self.accumulate % self.ghost_size:
                raise TrainableError(
                    f"vision ghost_size is {self.ghost_size}; give a divisor of batch / accumulate, "
                    f"{self.batch // self.accumulate}"
                )
        else:
            self._check_together("batch", self.batch)
            if self.accumulate > 1:
                raise TrainableError(
                    f"vision accumulate is {self.accumulate} with norm 'batch', which would normalise smaller batches; "
                    f"give norm ghost with ghost_size {self.batch // self.accumulate}, or group"
                )

    def _check_batch(self, examples: int) -> None:
        if self.batch > examples:
            raise TrainableError(f"vision batch is {self.batch}; give at most {examples}, as there are to train on")

    def _check_together(self, name: str, count: int) -> None:
        if count < 2:
            raise TrainableError(f"vision {name} is {count}; give at least 2, as one image has no batch statistics")


_CHOICES = {"architecture": ARCHITECTURES, "norm": NORMS, "positions": POSITIONS}
#: What a norm takes.
_SIZES = {"ghost": "ghost_size", "group": "norm_groups"}
_BASE_FIELDS = {"base_width", "base_depth", "base_heads"}
_SHAPE_FIELDS = {"architecture", "width", "depth", "batch"}
_NOT_IN_BUCKETS = {"data", "eval_examples"}
_COUNTS = (
    *("width", "depth", "stages", "ghost_size", "norm_groups", "heads", "patch", "batch", "eval_examples"),
    *("schedule_knots", "accumulate"),
    *sorted(_BASE_FIELDS),
)
_BN_MOMENTUM = HparamSpec(kind="live", default=0.1, low=0.0, high=1.0, doc="share of a batch in running statistics")
_HPARAMS = {
    "label_smoothing": HparamSpec(kind="live", default=0.0, low=0.0, high=1.0, doc="spread over all classes"),
    "dropout": HparamSpec(kind="live", default=0.0, low=0.0, high=0.95, doc=_DROPOUT),
    "clip_norm": replace(CLIP_NORM, default=1.0),
}
