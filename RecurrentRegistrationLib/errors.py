"""The errors a caller can act on; each message is one sentence that says what is wrong and what to do."""


class InputError(ValueError):
    """An input or a setting cannot be used as it is (exit status 2)."""


class InputWarning(UserWarning):
    """What was assumed where an input leaves a choice; one sentence."""


class OutOfMemoryError(RuntimeError):
    """The job does not fit in memory, also after the fallbacks (exit status 3)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the processor or the GPU, whichever library says so."""
    if isinstance(error, (OutOfMemoryError, MemoryError)):
        return True
    words = ("out of memory", "not enough memory", "allocate memory", "failed to allocate", "bad_alloc")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
