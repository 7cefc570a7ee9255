"""The quickstart, which runs real jobs on the files of a folder. Read `__main__.py` first."""
