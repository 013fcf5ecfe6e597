"""What the contract suites of trainables have in common: members trained by Adam's kin, under the cosine schedule."""

from tests.contracts.stack_contract import Change

#: How to change the hyperparameters of Adam's kin so that it shows.
ADAM = {"lr": Change(to=5e-3), "weight_decay": Change(to=0.5), "beta1": Change(to=0.5), "beta2": Change(to=0.5)}
#: The same of what every optimizer comes with.
REST = {
    "dropout": Change(to=0.5),
    "warmup_steps": Change(to=10),
    "decay_steps": Change(to=5),
    "final_lr_ratio": Change(to=0.75, given={"decay_steps": 5}),
    "clip_norm": Change(to=0.01),
}
#: Three members for either.
ADAM_SAMPLES = (
    {"lr": 3e-3, "weight_decay": 0.1, "decay_steps": 100},
    {"lr": 1e-3, "weight_decay": 0.0, "dropout": 0.1, "beta1": 0.8, "clip_norm": 0.0},
    {"lr": 2e-3, "beta2": 0.99, "dropout": 0.2, "warmup_steps": 5},
)
