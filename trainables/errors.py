"""What trainables raise on purpose. Light to import."""


class TrainableError(ValueError):
    """A trainable was asked for something it cannot do; the message names the field, the value and the mend."""


class DataError(TrainableError):
    """The training data is missing, unreadable, empty or too small."""
