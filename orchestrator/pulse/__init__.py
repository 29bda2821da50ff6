"""The pulse: heartbeats and address leases, in real time, in a process of its own."""
