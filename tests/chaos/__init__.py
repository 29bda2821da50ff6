"""Real applications on real clusters, hurt at random moments; what clients were told decides."""
