"""``python -m meshctl``: the command line, where the package is not installed."""

from meshctl.app import main

main()
