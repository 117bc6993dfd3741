"""What a user is told when something cannot be done."""


class RegistrationError(Exception):
    """One plain sentence: what is wrong and what to do."""


FAILURES = (RegistrationError, MemoryError, OSError, RuntimeError)  # the last two also of writing and reading by ITK


def sentence(error: BaseException) -> str:
    """What one of the `FAILURES` means to a user."""
    if isinstance(error, RegistrationError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory: close other volumes, or ask for less."
    reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[-1:] or type(error).__name__
    reason = reason if isinstance(reason, str) else reason[0]
    return f"Temporary files cannot be written or read ({reason}): make room on the disk."
