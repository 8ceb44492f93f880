"""`python -m obverse`."""

from obverse.cli import run

if __name__ == "__main__":
    run()
