"""Datasets that bundled policies collect here, on first use."""
