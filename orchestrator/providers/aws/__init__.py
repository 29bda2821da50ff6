"""What moves addresses on Amazon Web Services."""
