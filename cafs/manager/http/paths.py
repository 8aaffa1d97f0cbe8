"""Where things are served."""

API = "/api/v1"
CONSOLE = "/console"
