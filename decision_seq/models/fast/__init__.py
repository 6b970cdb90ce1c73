"""Faster forms of the plain layers; each is compared with its plain form by a test."""
