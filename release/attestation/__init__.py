"""Statements about a release: how it was built, and that others rebuilt it; signed with a key that its owner keeps."""
