"""Measures of a trained policy, each beside its report.

hindsight_matching.py   how close a rollout comes to the distribution that it is given
model_error.py          how far a Trajectory Transformer's predictions are from the data
credit_assignment.py    which steps explain a return: predictions and attention
"""
