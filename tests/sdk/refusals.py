"""What refusals say."""

import pytest


def refused(ask, *words, kind=ValueError):
    """The message of a refusal holds all of these."""
    with pytest.raises(kind) as caught:
        ask()
    message = caught.value.args[0]
    assert all(word in message for word in words), message
