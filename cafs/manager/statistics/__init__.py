"""What services count: taken in, written in batches, kept at falling resolution, asked for."""
