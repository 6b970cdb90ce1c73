"""A plugin of decision_seq; importing it registers its components."""

from decision_seq_template import environment, policy, reader, verb

__all__ = ["environment", "policy", "reader", "verb"]
