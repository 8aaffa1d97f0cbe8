"""What tests stand on: real services, faults, watchers. One module for each."""
