"""The command line `queueport`; `main` is its entry point. For operators, who find it in docs/command-line.md."""

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` names, and exit."""
    from queueport.cli.app import app

    app()
