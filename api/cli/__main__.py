"""`python -m api.cli`: the same command without its script."""

from api.cli.main import run

if __name__ == "__main__":
    run()
