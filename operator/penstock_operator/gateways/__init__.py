"""What the operator has a model's gateways do: tell their status, hold requests, let them go on."""
