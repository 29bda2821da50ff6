"""What moves addresses on Google Cloud."""
