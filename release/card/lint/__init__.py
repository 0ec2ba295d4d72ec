"""Lint of model cards: what a card says, held against its own arithmetic, its files, and its claims where they are known."""
