"""A LightningModule and its fit, which `lit.yaml` trains as a population; the lines with `adapt` are pbt's."""

from __future__ import annotations

import functools

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from trainables import adapt

DEFAULTS = {"lr": 3e-3, "weight_decay": 1e-4, "dropout": 0.1, "batch_size": 64}


class Digits(lightning.LightningModule):
    """A classifier of 8 x 8 pixels."""

    def __init__(self, lr: float, weight_decay: float, dropout: float) -> None:
        super().__init__()
        self.lr, self.weight_decay = lr, weight_decay
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy."""
        pixels, digits = batch
        loss = F.cross_entropy(self.net(pixels), digits)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Cross entropy and the share of digits that are right."""
        pixels, digits = batch
        logits = self.net(pixels)
        self.log("val_loss", F.cross_entropy(logits, digits))
        self.log("val_accuracy", (logits.argmax(1) == digits).float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW, and a learning rate that falls to nothing in 30 epochs."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)}


@functools.cache
def parts() -> tuple[TensorDataset, ...]:
    """Training and validation; read once for all members."""
    digits = load_digits()
    whole = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16.0, torch.tensor(digits.target))
    return tuple(random_split(whole, [1500, 297], generator=torch.Generator().manual_seed(0)))


def main() -> None:
    """Fit."""
    hparams = dict(adapt.hparams(DEFAULTS))
    train, validation = parts()
    loader = DataLoader(train, batch_size=int(hparams.pop("batch_size")), shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=30,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[adapt.lightning_callback()],
    )
    trainer.fit(Digits(**hparams), loader, DataLoader(validation, batch_size=297))


if __name__ == "__main__":
    main()
