"""
The gateway. `app` takes a request in, `pipeline` knows the order of the decisions, `runtime` is what the
process consists of, `server` runs it. What stands between them decides nothing that a file below could.
"""
