"""Errors that a user caused and can mend.

Every message reads `what: expected X, got Y; remedy`. The command line prints it on one line of stderr and exits with
2; anything that is not a `UserError` is a defect of the lab and keeps its traceback.
"""


class UserError(Exception):
    """Input that the lab cannot work with: the message names the file, key or value and the remedy."""


class ConfigError(UserError):
    """A key, type, value or combination in a configuration that is not valid."""


class DataError(UserError):
    """A data set, folder, archive or image that cannot be read as asked."""


class CheckpointError(UserError):
    """A checkpoint that is truncated, unsafe, or of another model or configuration."""


class MetricError(UserError):
    """A score that cannot be computed honestly from what was given."""


class RunError(UserError):
    """A run directory, device or training state that stands in the way of the run."""
