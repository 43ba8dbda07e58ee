"""`python -m wiring_lightning` does the same as `wiring`."""

from wiring_lightning.cli.commands import main

if __name__ == "__main__":
    main()
