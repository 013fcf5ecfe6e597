"""Hugging Face's Trainer, which `hf.yaml` trains as a population; the lines with `adapt` are pbt's."""

from __future__ import annotations

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset, random_split
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments

from trainables import adapt

DEFAULTS = {"learning_rate": 1e-3, "weight_decay": 0.01, "dropout": 0.1, "warmup_steps": 20}


class Digits(Dataset[dict[str, Tensor]]):
    """Pixels as words: 64 of them, each with one of 17 shades."""

    def __init__(self) -> None:
        digits = load_digits()
        self.words, self.labels = torch.tensor(digits.data).long(), torch.tensor(digits.target)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


@functools.cache
def parts() -> tuple[Dataset[dict[str, Tensor]], ...]:
    """Training and validation; read once for all members."""
    return tuple(random_split(Digits(), [1500, 297], generator=torch.Generator().manual_seed(0)))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of digits that are right."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main() -> None:
    """Train a small BERT from scratch."""
    hparams = adapt.hparams(DEFAULTS)
    dropout = hparams["dropout"]
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=17,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=10,
        )
    )
    train, validation = parts()
    arguments = TrainingArguments(
        output_dir="hf-output",
        learning_rate=hparams["learning_rate"],
        weight_decay=hparams["weight_decay"],
        warmup_steps=int(hparams["warmup_steps"]),
        per_device_train_batch_size=64,
        per_device_eval_batch_size=297,
        num_train_epochs=30,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        log_level="error",
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=accuracy,
        callbacks=[adapt.trainer_callback()],
    )
    trainer.train()


if __name__ == "__main__":
    main()
