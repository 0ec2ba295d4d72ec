"""One module for each group of commands; `release.cli` puts them together.  Heavy imports stand inside the commands."""
