"""``python -m cafs``: the same as the ``cafs`` program."""

from cafs.cli.main import main

main()
