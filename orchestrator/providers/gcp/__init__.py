"""What moves addresses on Google Cloud; hafarm.yaml refuses these providers in this version."""
