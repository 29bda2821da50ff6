"""The words: plain frozen values that every other room speaks in."""
