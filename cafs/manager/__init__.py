"""``cafs manager``: what operators decide and look at. Services take their configuration from it."""
