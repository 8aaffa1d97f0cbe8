"""Start profiles that are learned of the starts that peers tell."""
