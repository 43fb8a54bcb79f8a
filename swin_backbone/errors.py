"""The package's own exceptions."""


class ArgumentError(ValueError, AssertionError):
    """An argument has an invalid value; the message names it and what is expected.

    It is also an AssertionError, which OpenMMLab's constructors raise.
    """


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is unknown, is given twice, or has the wrong type.

    It is also a TypeError, which Python and OpenMMLab's constructors raise.
    """


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit the model; the message says what it contains."""


class RegistrationWarning(UserWarning):
    """The backbones are not registered in a framework; the message names it and the reason."""
