"""The kernel's FUSE protocol, spoken directly on /dev/fuse."""
