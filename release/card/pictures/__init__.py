"""Pictures of a card: drawn by matplotlib from the same evidence as its tables, equal bytes for equal evidence."""
