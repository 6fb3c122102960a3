"""What happens to services and rollouts, told to everyone who looks on as it happens."""
