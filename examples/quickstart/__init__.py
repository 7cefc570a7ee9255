"""The quickstart: real jobs over the files of any folder, in one run. Read `__main__.py` first."""
