"""`python -m queueport` runs the command `queueport`."""

from queueport.cli import main

if __name__ == "__main__":
    main()
