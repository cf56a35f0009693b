"""What people and programs see of the gateway: lists, status, metrics, logs, admin routes."""
