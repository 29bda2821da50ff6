"""Replicated modules: roles, records, wire frames, acknowledgement, what may differ; pure."""
