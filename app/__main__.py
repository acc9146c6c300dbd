"""`python -m app` is `taskpact`."""

from app.cli import main

main(prog_name="taskpact")
