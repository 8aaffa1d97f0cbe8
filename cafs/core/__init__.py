"""Pure logic: no trio, lmdb, socket, file, time or random. Everything here is data in, data out."""
