"""What holds for every Python test."""

import signal

# A shell that starts the tests in the background (as a CI system may) leaves Ctrl-C ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
