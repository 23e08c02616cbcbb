"""Errors that a user can mend: tools print their message alone and exit with 1."""


class UserError(Exception):
    """Something outside the code is wrong; the message says what and the way out."""


class ConfigError(UserError):
    """A config that cannot be what its author meant."""


class CheckpointError(UserError):
    """A file of weights that is missing, damaged, unsafe or of another model."""


class TrainingError(UserError):
    """Training cannot go on; what was saved before is intact."""


class LostProcessError(TrainingError):
    """Another process of the run has ended or hangs; the reason is in its own message."""
