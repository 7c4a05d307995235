"""Files keep the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bot_session.testing import StorageContract

from bot_session_storage_file import FileStorage

if TYPE_CHECKING:
    from pathlib import Path

    from bot_session.storage import Storage
    from bot_session.testing.contract.base import MakeStorage

FOREIGN = {
    "notes.txt": "ours",
    "ab/image.png": "png",
    "ab/Elsewhere.json": "{",
    "lost+found/x.json": "{",
    ".env": "A=1",
}


class TestFile(StorageContract):
    connected = False

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.root = tmp_path / "sessions"

    @pytest.fixture
    def make_storage(self) -> MakeStorage:
        return lambda **options: FileStorage(self.root, **options)

    async def plant_foreign(self, storage: Storage) -> None:
        for path, text in FOREIGN.items():
            (self.root / path).parent.mkdir(exist_ok=True)
            (self.root / path).write_text(text)

    async def forbid(self, storage: Storage, key: str) -> None:
        (self.root / key[-2:]).mkdir()
        (self.root / key[-2:] / f"{key}.json").write_text("{")

    async def foreign_is_untouched(self, storage: Storage) -> None:
        assert {path: (self.root / path).read_text() for path in FOREIGN} == FOREIGN
