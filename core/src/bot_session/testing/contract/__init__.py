"""The storage contract: one pytest class that every adapter passes, in groups of one file each."""

from __future__ import annotations

from .base import NOT_APPLICABLE, MakeStorage, StillWorks
from .batches import Batches
from .expiry import Expiry
from .faults import Faults
from .iteration import Iteration
from .keys import Keys
from .life import Life
from .limits import Limits
from .matching import Matching
from .model import Model
from .values import Values

__all__ = ["CONTRACT_VERSION", "NOT_APPLICABLE", "MakeStorage", "StillWorks", "StorageContract"]

CONTRACT_VERSION = "1.1"
"""Grows when a rule is added or changed: a report says which contract a storage was held to."""


class StorageContract(Values, Keys, Expiry, Matching, Iteration, Batches, Life, Faults, Limits, Model):
    """
    Inherit, supply ``make_storage``, and as many back doors as there are: see `contract.base.ContractBase`.

    A back door that is not supplied skips the tests that need it. A skip is counted and shown in the report; what does
    not apply to a storage, such as a connection to cut where there is none, is told apart from it.
    """
