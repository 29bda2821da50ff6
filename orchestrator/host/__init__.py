"""This Linux machine, one file for each thing that is touched."""
