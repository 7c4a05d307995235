"""aiogram's own tests of FSM storages, passed by `SessionFSMStorage` over each of our storages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("aiogram")

from aiogram.fsm.storage.base import BaseStorage, StorageKey
from bot_session.frameworks.aiogram import SessionFSMStorage

if not hasattr(BaseStorage, "get_value"):
    pytest.skip("these tests are of aiogram 3.15 or later", allow_module_level=True)

SOURCE = Path(__file__).parent / "upstream" / "aiogram" / "storage_tests.py"


def theirs():
    """Their tests, without the mark that names their storages."""
    spec = importlib.util.spec_from_file_location("storage_tests", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: test for name, test in vars(module.TestStorages).items() if name.startswith("test_")}


@pytest.fixture
async def storage(url, open_url):
    return SessionFSMStorage(await open_url(url))


@pytest.fixture
def storage_key():
    return StorageKey(chat_id=-42, user_id=42, bot_id=42)  # As in their conftest.py.


TestStorages = type("TestStorages", (), theirs())
