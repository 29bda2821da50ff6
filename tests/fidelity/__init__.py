"""The mount beside the bare file system: the same operations, answers, trees, here and on the other node."""
