"""hafarm: keeps applications alive while machines, disks, networks and clouds fail."""
