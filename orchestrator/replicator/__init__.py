"""One mirror's files: the kernel, the disk, the peer."""
