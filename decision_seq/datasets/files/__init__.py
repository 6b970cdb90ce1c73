"""Readers of single files: .npz and .pkl."""
