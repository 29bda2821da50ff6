"""What a person types; it asks the agent over HTTP and starts processes as processes."""
