"""``python -m cafs``: the same as the ``cafs`` program."""

from cafs.cli.start import main

main()
