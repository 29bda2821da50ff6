"""What moves addresses on Microsoft Azure; hafarm.yaml refuses these providers in this version."""
