"""What a user is told when something cannot be done."""


class RegistrationError(Exception):
    """One plain sentence: what is wrong and what to do."""
