"""Keys and certificates: a cluster CA, one bundle per node, one for the witness."""
