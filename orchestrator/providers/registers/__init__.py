"""Registers that are no witness process: stores that compare a tag, and what makes registers of them."""
