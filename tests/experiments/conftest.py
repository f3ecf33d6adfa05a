"""For all tests of the verbs: signals as a terminal sends them."""

import signal

import pytest


@pytest.fixture(scope="module", autouse=True)
def interruptible():
    """SIGINT as in a terminal: where a shell runs tests with `&` it is ignored, by children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
