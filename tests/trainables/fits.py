"""Small fits of Lightning and of Hugging Face's Trainer, for tests of their callbacks."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import Trainer, TrainingArguments

from trainables import adapt

EPOCHS = 8
#: What was done, for tests to look at: learning rates by step, and examples by epoch.
seen: list[Any] = []


def _examples(seed: int, num: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 5, generator=generator)
    return x, (x[:, 0] > 0).long()


class Lit(lightning.LightningModule):
    """A classifier with dropout."""

    def __init__(self, lr: float, dropout: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy."""
        seen.append((self.trainer.global_step, self.optimizers().param_groups[0]["lr"], batch[0][:, 0].tolist()))
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Cross entropy."""
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        """Adam, and a learning rate that halves each epoch."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def fit() -> None:
    """By Lightning."""
    hparams = adapt.hparams({"lr": 0.1, "dropout": 0.2})
    train = DataLoader(TensorDataset(*_examples(0, 20)), batch_size=6, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=[adapt.lightning_callback()],
    )
    validation = DataLoader(TensorDataset(*_examples(1, 11)), batch_size=11)
    trainer.fit(Lit(hparams["lr"], hparams["dropout"]), train, validation)


class Rows(Dataset[dict[str, Tensor]]):
    """Named tensors."""

    def __init__(self, seed: int, num: int) -> None:
        self.x, self.labels = _examples(seed, num)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class Net(nn.Module):
    """Gives a loss, as a Trainer wants it."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.training:
            seen.append(x[:, 0].tolist())
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def train_by_epochs(**changed: Any) -> None:
    """By the Trainer."""
    hparams = adapt.hparams({"lr": 0.1, "dropout": 0.2})
    arguments = TrainingArguments(
        **{
            "output_dir": "not-written",
            "learning_rate": hparams["lr"],
            "per_device_train_batch_size": 6,
            "num_train_epochs": EPOCHS,
            "eval_strategy": "epoch",
            "save_strategy": "no",
            "logging_strategy": "epoch",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "use_cpu": True,
            "log_level": "error",
            **changed,
        }
    )
    Trainer(
        model=Net(hparams["dropout"]),
        args=arguments,
        train_dataset=Rows(0, 20),
        eval_dataset=Rows(1, 11),
        callbacks=[adapt.trainer_callback()],
    ).train()


def train_by_steps() -> None:
    """Evaluated every 3 steps of the 4 of an epoch."""
    train_by_epochs(eval_strategy="steps", eval_steps=3, logging_strategy="no")
