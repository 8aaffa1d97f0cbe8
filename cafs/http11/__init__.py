"""HTTP/1.1 as a server on trio and h11: one shell for every socket of ours that speaks it."""
