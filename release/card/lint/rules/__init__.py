"""One rule a module: `find(document, knowledge)` yields findings."""
