"""The command line: arguments in, exit code out. No logic of its own."""
