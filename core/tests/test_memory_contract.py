import pytest
from bot_session.memory import MemoryStorage
from bot_session.testing import StorageContract


class TestMemory(StorageContract):
    connected = False

    @pytest.fixture
    def make_storage(self):
        return MemoryStorage

    async def expire_now(self, storage, key):
        value, _ = storage._entries[key]
        storage._entries[key] = (value, storage._clock())
