"""bot-session keeps sessions in Supabase, in grammY's table, through Supabase's own client."""

from __future__ import annotations

from ._storage import SupabaseStorage

__all__ = ["SupabaseStorage"]
