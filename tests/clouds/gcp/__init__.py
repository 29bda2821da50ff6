"""GCP: Compute Engine, Cloud DNS, and the service that gives tokens."""
