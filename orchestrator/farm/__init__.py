"""Farm modules: one address, all nodes serve; hafarm.yaml refuses this kind in this version."""
