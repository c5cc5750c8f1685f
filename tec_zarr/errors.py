"""The errors that this package raises on purpose. What else escapes from it is a bug."""

from __future__ import annotations


class TecError(ValueError):
    """Base of every error raised on purpose by this package."""


class ConfigError(TecError):
    """Options that contradict each other, the data or the model."""


class FormatError(TecError):
    """The bytes are no chunk of ours, or a damaged one."""


class ChecksumError(FormatError):
    """A stored checksum does not match: the bytes were changed after they were written."""


class ModelNotFoundError(TecError):
    """No artifact with this name or hash can be reached."""


class ModelMismatchError(TecError):
    """An artifact is not what its name or hash promises, or does not fit the chunk."""
