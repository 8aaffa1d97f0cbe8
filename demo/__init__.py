"""What ``make demo`` runs: a real image, converted, then mounted and run as a container over a slow link,
beside a full pull.

``bench`` and the tests use its parts (image, registry, link); nothing here imports them or ``cafs``:
the demo drives the installed command line, as a user would.
"""
