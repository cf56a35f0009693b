"""
The desktop side: menu and icon as functions of a gateway's status, the gateway found, started and ended, and the
Linux backend that shows it. The command that ties them together is not there yet.
"""
