"""What a LocalModel's status says: conditions, failures, what was measured."""
