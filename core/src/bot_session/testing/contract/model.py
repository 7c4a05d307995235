"""Group: any sequence of operations does what it does to a dict."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from bot_session.testing.stateful import run_storage_machine

from .base import ContractBase

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from bot_session.storage import Storage

__all__ = ["Model"]


class Model(ContractBase):
    """Any sequence of operations does what it does to a dict."""

    async def test_any_sequence_of_operations_does_what_it_does_to_a_dict(
        self, storage: Storage, other: Storage
    ) -> None:
        loop = asyncio.get_running_loop()

        def run(call: Coroutine[Any, Any, Any]) -> Any:
            # The machine is synchronous and runs in a thread; storages stay in the loop that their clients belong to.
            return asyncio.run_coroutine_threadsafe(call, loop).result(timeout=6 * self.patience)

        waits = type(self).expire_now is ContractBase.expire_now
        await asyncio.to_thread(
            run_storage_machine,
            (storage, other),
            run,
            None if waits else self.expire_now,
            self.comparable,
            examples=self.machine_examples,
        )
