"""The process that carries the node: it gathers events, lets the machines decide, and acts."""
