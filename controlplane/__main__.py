"""``python -m controlplane`` is the ``hueshift`` command."""

from controlplane.cli.main import main

if __name__ == "__main__":
    main()
