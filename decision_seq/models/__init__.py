"""Backbones, encoders and heads: the parts that policies are made of."""
