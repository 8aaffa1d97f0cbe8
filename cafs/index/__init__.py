"""The layer index: an EROFS image whose data region lives in chunks. Written, read, checked."""
