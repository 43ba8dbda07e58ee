"""The `wiring` command from a checkout: `python cli.py fit --config configs/quickstart.yaml`."""

from wiring_lightning.cli.commands import main

if __name__ == "__main__":
    main()
