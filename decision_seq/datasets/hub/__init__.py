"""Trajectories in datasets of the Hugging Face Hub: fetched, read and written."""
