"""Jobs: what hosts are told to do, who does how much of it, and how that ends."""
