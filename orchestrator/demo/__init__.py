"""A whole cluster on one machine, and what happens to it when things fail."""
