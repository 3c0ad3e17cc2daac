"""One tree of errors: whatever a user can get wrong ends in one sentence that holds the value and what to do.

The command line turns a `CoDi2Error` into that sentence and exit code 2, the server into an HTTP 4xx.
Errors that are not in this tree are our own bugs and keep their traceback.
"""


class CoDi2Error(Exception):
    """Base of every error that a user can cause and mend."""


class PromptError(CoDi2Error):
    """The prompt and its media do not fit together (a placeholder without a file, a file without a placeholder)."""


class MediaError(CoDi2Error):
    """A picture, sound or clip cannot be read, is empty, or is beyond the stated limits."""


class MediaWarning(UserWarning):
    """A medium can be read, but its owner should know what became of it."""


class MissingReaderError(MediaError):
    """A medium is of a format whose optional reader is not installed; the message names the command that does it."""


class LimitError(MediaError):
    """The media of one request are more than a request may hold, or take longer to read."""


class ConfigError(CoDi2Error):
    """A preset, option or config file names something that does not exist or does not fit."""


class WeightsError(CoDi2Error):
    """A weight file is missing, has the wrong hash, or holds tensors of another shape."""


class DataError(CoDi2Error):
    """A corpus, shard or cache is missing, broken, or of another version."""


class OutputError(CoDi2Error):
    """A result cannot be written (folder not writable, disk full)."""


class MissingDependencyError(CoDi2Error):
    """An optional dependency is not installed; the message names the command that installs it."""


class BusyError(CoDi2Error):
    """The server has no room for another request now. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LateError(CoDi2Error):
    """A request was not answered before its deadline."""


class DeviceMemoryError(CoDi2Error):
    """A device's memory is full; the message says what to change. Smaller work, or the same work later, may fit."""
