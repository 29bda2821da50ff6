"""Simulators of the clouds that the providers speak to, for the real SDKs, and their own tests."""
