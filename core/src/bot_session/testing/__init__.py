"""
What proves a storage: the contract suite, a state machine, broken storages that the suite must catch, and a report.

::

    from bot_session.testing import StorageContract

    class TestMine(StorageContract):
        @pytest.fixture
        def make_storage(self, tmp_path):
            return lambda **options: MyStorage(tmp_path / "sessions.db", **options)
"""

from __future__ import annotations

try:
    import hypothesis  # noqa: F401 - only asked whether it is there
    import pytest
    import pytest_asyncio  # noqa: F401 - only asked whether it is there
except ModuleNotFoundError as error:
    raise ImportError(f"bot_session.testing needs {error.name}: pip install bot-session[testing]") from error

# Before they are imported: only then does pytest show what was compared when one of their asserts fails.
pytest.register_assert_rewrite(
    "bot_session.testing.contract", "bot_session.testing.integrations", "bot_session.testing.stateful"
)

from .contract import CONTRACT_VERSION, StorageContract  # noqa: E402

__all__ = ["CONTRACT_VERSION", "StorageContract"]
