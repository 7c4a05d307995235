"""
A checkout: a cart that is forgotten when nobody looks at it for an hour, and that an earlier version filled differently.

    python examples/checkout_aiogram.py                 in the terminal
    BOT_TOKEN=… python examples/checkout_aiogram.py     on Telegram, paid with stars
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import terminal
from aiogram import Bot, Dispatcher, F, Router
from aiogram.filters import Command
from aiogram.types import LabeledPrice
from bot_session import Session, Sessions, Storage, by_user, open_storage
from bot_session.frameworks.aiogram import SessionMiddleware

if TYPE_CHECKING:
    from aiogram.methods import AnswerPreCheckoutQuery, SendInvoice, SendMessage
    from aiogram.types import Message, PreCheckoutQuery

PRICES = {"pizza": 9, "cola": 3}


@dataclass
class Cart:
    """What a user wants to buy."""

    amounts: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """What it costs."""
        return sum(PRICES[item] * amount for item, amount in self.amounts.items())


def count_items(old: dict[str, Any]) -> dict[str, Any]:
    """Lead to version 1: before, a cart was a list, {"items": ["pizza", "pizza", "cola"]}."""
    return {"amounts": dict(Counter(old["items"]))}


def drop_what_is_sold_out(old: dict[str, Any]) -> dict[str, Any]:
    """Lead to version 2: there is no sushi any more."""
    return {"amounts": {item: amount for item, amount in old["amounts"].items() if item in PRICES}}


router = Router()


@router.message(Command("cart"))
async def show(message: Message, session: Session[Cart]) -> SendMessage:
    """Show the cart."""
    content = ", ".join(f"{amount} × {item}" for item, amount in session.data.amounts.items())
    return message.answer(f"{content or 'nothing'}: {session.data.total} ⭐")


@router.message(Command("pay"))
async def pay(message: Message, session: Session[Cart]) -> SendInvoice | SendMessage:
    """Send an invoice; its payload says for what, since the cart may change meanwhile."""
    total = session.data.total
    if not total:
        return message.answer("There is nothing to pay.")
    return message.answer_invoice("Your order", "Hot", str(total), "XTR", [LabeledPrice(label="All", amount=total)])


@router.pre_checkout_query()
async def check(query: PreCheckoutQuery, session: Session[Cart]) -> AnswerPreCheckoutQuery:
    """Accept the payment if the cart is still the same. This update has no chat: hence the sessions by user."""
    if query.invoice_payload == str(session.data.total):
        return query.answer(ok=True)
    return query.answer(ok=False, error_message="Your cart has changed: /pay again.")


@router.message(F.successful_payment)
async def paid(message: Message, session: Session[Cart]) -> SendMessage:
    """Deliver; the cart is empty again, and deleted."""
    session.clear()
    return message.answer("It is on its way!")


@router.message(F.text.lower().in_(PRICES))
async def add(message: Message, session: Session[Cart]) -> SendMessage:
    """Put something into the cart."""
    item = (message.text or "").lower()
    session.data.amounts[item] = session.data.amounts.get(item, 0) + 1
    return message.answer(f"{session.data.amounts[item]} × {item}, {session.data.total} ⭐ in all")


@router.message()
async def anything(message: Message) -> SendMessage:
    """Explain."""
    return message.answer(f"{' or '.join(PRICES)}? /cart, /pay")


def make_dispatcher(storage: Storage) -> Dispatcher:
    """Put the bot together."""
    carts = Sessions(
        storage,
        initial=Cart,
        key=by_user,
        ttl=timedelta(hours=1),
        renew="use",
        migrations={1: count_items, 2: drop_what_is_sold_out},
    )
    dispatcher = Dispatcher()
    dispatcher.include_router(router)
    SessionMiddleware(carts).setup(dispatcher)
    return dispatcher


def main() -> None:
    """Run it: on Telegram if there is a token, else in the terminal."""
    storage = open_storage("sqlite:checkout.db")
    dispatcher = make_dispatcher(storage)
    if token := os.environ.get("BOT_TOKEN"):
        asyncio.run(dispatcher.start_polling(Bot(token)))
    else:
        terminal.chat(dispatcher, storage)


if __name__ == "__main__":
    main()
