"""The cluster's own machines: heartbeats, leases, the register's judgement, budgets; pure."""
