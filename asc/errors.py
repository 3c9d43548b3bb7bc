"""The one exception that means: what the user gave cannot work, and here is what to do."""


class InputError(ValueError):
    """A mistake in the input. Its message is one sentence that names the file or setting, the fault and the remedy."""
