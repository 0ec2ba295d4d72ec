"""Verification of a published release by a stranger: from the Hub alone, without the work folder that made it."""
