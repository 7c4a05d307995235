"""A storage that tells what was asked of it."""

from __future__ import annotations

import pytest
from bot_session.testing.watched import WatchedStorage


@pytest.fixture
def storage():
    return WatchedStorage()
