"""The networks, data and loops that the tests of training share."""

from kit import _one_thread, _seeded, kit  # noqa: F401
