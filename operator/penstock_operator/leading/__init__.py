"""Which replica leads and writes."""
