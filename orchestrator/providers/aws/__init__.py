"""What moves addresses on Amazon Web Services; hafarm.yaml refuses these providers in this version."""
