"""The package's own exceptions."""


class ArgumentError(ValueError, AssertionError):
    """An argument's value cannot be used; the message names it and what was expected.

    Also an AssertionError, because that is what OpenMMLab's constructors raise in its place.
    """


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is not known, is given twice, or is of another type.

    Also a TypeError, because that is what Python and OpenMMLab's constructors raise in its place.
    """


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or does not fit the model; the message says what was found."""


class RegistrationWarning(UserWarning):
    """A framework was left out; the message says which and why."""
