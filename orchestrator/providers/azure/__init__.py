"""What moves addresses on Microsoft Azure."""
