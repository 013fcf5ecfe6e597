"""The shared training core: many members in one stack, each with its own hyperparameters.

`arena` is the storage, `rng` every random draw, `ops` the layers, `optim` and `schedules` the update, `data` the
batches, `model` the description a trainable gives, `step` one training step and `stack` the engine around it.
`modules` runs plain torch modules as members side by side, by the registry in `layers` and what `tracing` finds.
"""
