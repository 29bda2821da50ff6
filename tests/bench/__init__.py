"""Benchmarks: ratios taken side by side in one run, medians of interleaved rounds."""
