"""One module for each part of a manifest; `release.manifest` puts them together."""
