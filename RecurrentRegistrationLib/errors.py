"""The errors a caller can act on; each message is one sentence that says what is wrong and what to do."""


class InputError(ValueError):
    """An input or a setting cannot be used as it is (exit status 2)."""


class OutOfMemoryError(RuntimeError):
    """The job does not fit in memory, also after the fallbacks (exit status 3)."""
