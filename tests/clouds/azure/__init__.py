"""Azure: Resource Manager for networks, compute and names, and the service that gives tokens."""
