"""What a virtual machine asks at 169.254.169.254, of each of the three clouds."""
