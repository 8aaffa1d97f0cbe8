"""What services count and tell the manager: names, sums, and when to tell. Pure."""
