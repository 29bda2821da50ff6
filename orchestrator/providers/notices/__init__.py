"""What the metadata services of clouds announce: plain HTTP, without any library."""
