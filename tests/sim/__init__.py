"""Whole clusters of the real decisions under a seed, in a world that fails."""
