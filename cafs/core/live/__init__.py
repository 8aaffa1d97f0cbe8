"""What a manager may change of services while they run: the document, its meaning, how it is checked."""
