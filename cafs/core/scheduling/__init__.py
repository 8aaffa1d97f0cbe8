"""The scheduler's core: events in, decisions out. Pure: time and randomness are handed in."""
