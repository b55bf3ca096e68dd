"""`python -m streamkd` is the command `streamkd`."""

from streamkd.cli.main import run

if __name__ == "__main__":
    run()
