"""`python -m pbt` is `pbt`."""

from pbt.cli import main

if __name__ == "__main__":
    main(prog_name="python -m pbt")
