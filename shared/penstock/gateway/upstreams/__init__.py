"""What is known of the upstreams while the gateway runs, and which of them answers for a model."""
