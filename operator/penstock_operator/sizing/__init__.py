"""How large a server is made, and whether it is."""
