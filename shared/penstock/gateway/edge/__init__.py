"""The client's side of a request: the wire, who may ask, what is read and what is answered."""
